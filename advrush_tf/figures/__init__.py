"""Figures: pictures of records; nothing here measures or reads a workdir.

May import everything but `runs`. Begin with `style`, which all figures share.
"""
