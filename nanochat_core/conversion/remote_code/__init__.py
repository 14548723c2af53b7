"""Files that an export of `arch: full` carries along: each stands for itself and imports nothing of this project."""
