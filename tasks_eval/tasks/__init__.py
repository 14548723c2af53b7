"""The tasks, one a file: `make(data, split)` returns a split of it, an entry point in pyproject.toml names it.

What they are written with is in the folder above: task.py, hub.py, splits.py, multiple_choice.py. Those named local_*
need no download. docs/new_task.md adds one.
"""
