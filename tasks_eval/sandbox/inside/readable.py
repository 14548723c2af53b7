"""What a sandboxed Python must read of this machine: its standard library, shared libraries, and little else."""

import os
import sys

SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/urandom")


def readable_paths() -> list[str]:
    """Return the folders and files that exist, those inside of others left out; `DEVICES` come besides.

    >>> os.path.dirname(os.__file__).startswith(tuple(readable_paths()))
    True
    """
    own = (os.path.join(sys.base_prefix, "lib"), os.path.dirname(os.__file__))
    paths: list[str] = []
    for path in (*SYSTEM, *own):
        if os.path.exists(path) and not any(path == parent or path.startswith(f"{parent}/") for parent in paths):
            paths.append(path)
    return paths
