"""Runs: from settings to a workdir; the only floor that knows paths, devices and users.

May import everything below. Begin with `run`, the frame of all runs. `search`, `fit`,
`attack` and `landscape` are one run each; their settings declare the flags, and
`recipes` holds how each objective is usually fitted.
"""
