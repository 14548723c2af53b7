"""What sandbox has this machine? Prints one line of JSON, for `nanochat doctor`.

python -m tasks_eval.sandbox
{"level": "landlock+seccomp", "is_sandbox": true, "is_permitted": false, "troubles": {…: why not a stronger one}}
"""

import json
import sys

from nanochat_core.errors import NanochatError
from tasks_eval.sandbox.inside.request import RLIMITS
from tasks_eval.sandbox.levels import is_unsafe_permitted, rungs, sandbox_level


def main() -> None:
    try:
        level = sandbox_level()
    except NanochatError as error:
        sys.exit(str(error))
    troubles = {rung.level: rung.trouble for rung in rungs() if rung.trouble}
    report = {"level": level, "is_sandbox": level != RLIMITS, "is_permitted": is_unsafe_permitted()}
    print(json.dumps(report | {"troubles": troubles}))


if __name__ == "__main__":
    main()
