"""Runs code that a model wrote, kept apart from this machine by its kernel.

run.py          run a program; unit_tests.py grades one by tests; python_tool.py is the chat model's tool `python`
levels.py       how far programs are kept apart here, and what is required
process.py      start, watch and end a sandboxed process; inside/ is what runs in it
"""
