"""Programs that try to be graded as right without being so, or to get at what is outside of the sandbox.

They stand in attacks/*.txt, each under its name. Each defines f, or breaks before it could. Names that every attack
finds defined: SECRET_FILE, a file that everybody may read; CANARY, one that everybody may write; FOLDER, one where
everybody may make files; PORT and UNIX, where somebody listens; MARK, an argument to leave on the command line of
processes; pick(texts), the secret that is in one of the texts. An attack that notices its own success prints BREACH;
the rest is seen from outside (`attack_run.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks_eval.sandbox.inside.request import RLIMITS

BARE = "rlimits without seccomp"  # as on a kernel that has none
FOLDER = Path(__file__).parent / "attacks"
HEADING = "=== "
NEEDS_SECCOMP, NEEDS_LANDLOCK = "   [needs seccomp]", "   [needs landlock]"
PICK = """
import re
def pick(texts):
    for text in texts:
        if found := re.search('SECRET-[0-9a-f]{32}', str(text)):
            return found.group()
"""
RIGHT = "\ndef f(x):\n    return 2 * x\n"


@dataclass(frozen=True)
class Attack:
    """needs: what the weakest level does not contain without: seccomp, which it takes where the kernel has that, or
    landlock, which it does without.
    """

    name: str
    code: str
    needs: str = ""

    def is_held_at(self, level: str) -> bool:
        """Tell whether a level is to contain it."""
        return not self.needs or level not in (RLIMITS, BARE) or (level == RLIMITS and self.needs == NEEDS_SECCOMP)


def attacks() -> list[Attack]:
    """Return all attacks: those written down, and a few that are long."""
    written = [attack for path in sorted(FOLDER.glob("*.txt")) for attack in parse(path.read_text())]
    return [
        *written,
        Attack("1 MB of source", f"a = '{'x' * (1 << 20)}'{RIGHT}"),
        Attack("900 kB of source", f"a = [{'1,' * 450_000}]{RIGHT}"),
        Attack("nested source", f"a = {'(' * 9999}{RIGHT}"),
        Attack("many names", "\n".join(f"a{number} = {number}" for number in range(50_000)) + RIGHT),
    ]


def parse(text: str) -> Iterator[Attack]:
    """Yield the attacks of a file."""
    for part in f"\n{text}".split(f"\n{HEADING}")[1:]:
        heading, _, code = part.partition("\n")
        needs = next((needs for needs in (NEEDS_SECCOMP, NEEDS_LANDLOCK) if heading.endswith(needs)), "")
        yield Attack(heading.removesuffix(needs), code, needs)
