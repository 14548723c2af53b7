"""Where the compiler keeps what it has made, so that a resumed or repeated run does not compile again.

The compiler reads objects back from there by unpickling, which runs whatever they say: the folder is private to its
owner, and one that others could write to is refused.
"""

import os
from pathlib import Path

from nanochat_core.errors import SpecError


def use_compile_cache(folder: Path) -> None:
    """Let torch.compile of this process keep its work below `folder`; to be called before the first compilation.

    Variables that the user has set win. Raises SpecError where the folder belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise SpecError(f"{folder} belongs to another user, whose code would run here. Remove it.")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(variable, str(folder / name))
