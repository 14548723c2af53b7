"""What runs inside a sandboxed process. Standard library only, for the interpreter starts bare; nothing is unpickled.

start.py       reads what is to be done, enters the isolation of the level, begins
namespaces.py landlock.py seccomp.py limits.py    the walls, each by the kernel's own calls (`kernel.py`)
program.py     runs a program; candidate.py answers calls of a function; tests.py makes them, and judges
plain_data.py  how arguments and results cross the pipe between those two
"""
