"""The worst case of a torchrun: silent ranks in sessions of their own, one of them deaf to SIGTERM.

python tree.py FOLDER [rank | deaf]      writes FOLDER/<process id> when it is ready
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(folder: Path, role: str) -> None:
    if role == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / str(os.getpid())).touch()
    if role == "agent":
        for rank in ("rank", "deaf"):
            subprocess.Popen([sys.executable, __file__, str(folder), rank], start_new_session=True)
    time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "agent")
