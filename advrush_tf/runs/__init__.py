"""Runs: from settings to a workdir; the only floor that knows paths, devices and users.

May import everything below. `search`, `fit`, `attack` and `landscape` are one run each;
`settings` and `recipes` hold their numbers.
"""
