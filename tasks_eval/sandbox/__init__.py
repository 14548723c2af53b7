"""Runs code that a model wrote, in a process of its own with limits. `process.py` is the way in."""
