"""A running stage in Prefect's UI: progress with the time left, the losses so far, a link to MLflow; after a failure,
what failed, why, and how to go on.

The artifacts are written by the background thread (flows/background.py): training never waits for Prefect's server.
"""

import contextvars
import json
import re
import time
from functools import partial
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.background import in_background
from flows.progress import Speed, describe, latest

PERIOD_SECONDS = 5.0
TABLE_ROWS = 20
COLUMNS = {  # of the table: metric -> heading
    "step": "step",
    "tokens": "tokens",
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "val/bpb": "validation bpb",
    "eval/core": "CORE",
    "eval/core_partial": "CORE, in part",
    "eval/chatcore": "ChatCORE",
    "rl/reward": "reward",
    "train/tokens_per_second": "tokens/s",
}
VALIDATIONS = {"val/loss", "val/bpb", "eval/core", "eval/core_partial", "eval/chatcore"}


class LiveView:
    """What Prefect's UI shows of one stage. Nothing before `start`: a cached stage has no artifacts of its own."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._latest: dict[str, Any] = {"step": 0}
        self._speed = Speed()
        self._lines: list[dict[str, Any]] = []
        self._progress: UUID | None = None
        self._table: UUID | None = None
        self._shown_at = 0.0
        self._is_writing = self._has_started = False
        self._context = contextvars.copy_context()  # of the flow run: links come from another thread

    def start(self) -> None:
        """Show that the stage runs; a second call is another try of it."""
        if not self._has_started:
            self._has_started = True
            self._show()

    def link(self, url: str, text: str) -> None:
        """Show a link beside the stage's progress."""
        work = partial(create_link_artifact, url, text, key=key(self._stage, "mlflow"), description=text)
        in_background(work, self._context)

    def update(self, lines: list[dict[str, Any]]) -> None:
        """Take in new lines of metrics.jsonl; shown every PERIOD_SECONDS, and while the server is slow, less often."""
        for line in lines:
            self._latest = latest(self._latest, line)
            self._speed.add(line)
        self._lines = thinned([*self._lines, *lines])
        if time.monotonic() - self._shown_at > PERIOD_SECONDS and not self._is_writing:
            self._show()

    def finish(self, how: str, *, is_done: bool = False) -> None:
        """Show how the stage ended, in a few words."""
        if self._has_started:
            self._show(how, is_done=is_done)

    def _show(self, how: str = "", *, is_done: bool = False) -> None:
        self._shown_at, self._is_writing = time.monotonic(), True
        step, total = self._latest["step"], self._latest.get("total_steps")
        percent = 100.0 if is_done else min(100.0, 100.0 * step / total) if total else 0.0
        position = f"{percent:.0f} % · step {step:,} of {total:,}" if total else ""
        facts = [how or position or "starting", *([position] if how and position else [])]
        facts += [text] if (text := describe(self._latest, self._speed)) and not is_done else []
        rows = table(self._lines)
        in_background(lambda: self._write(percent, f"{self._stage}: {' · '.join(facts)}", rows))

    def _write(self, percent: float, facts: str, rows: list[dict[str, Any]]) -> None:
        try:
            if self._progress is None:
                self._progress = as_id(create_progress_artifact(percent, key(self._stage, "progress"), facts))
            else:
                update_progress_artifact(self._progress, percent, facts)
            if self._table is None and rows:
                self._table = as_id(create_table_artifact(rows, key(self._stage, "losses"), f"{self._stage}: losses"))
            elif self._table is not None:
                with get_client(sync_client=True) as client:
                    client.update_artifact(self._table, ArtifactUpdate(data=json.dumps(rows)))
        finally:
            self._is_writing = False


def show_failure(stage: str, error: BaseException, command: str) -> None:
    """Show what failed, why, and how to go on; `command` is what continues it in a terminal."""
    in_background(lambda: create_markdown_artifact(failure_page(stage, error, command), key="failure"))


def failure_page(stage: str, error: BaseException, command: str) -> str:
    """Return the page in Markdown.

    >>> print(failure_page("sft", ValueError("no rows"), "nanochat run demo"))
    # sft failed
    <BLANKLINE>
    ```
    no rows
    ```
    <BLANKLINE>
    What is finished is kept, and this stage goes on from its last checkpoint. To resume, once the cause is gone:
    <BLANKLINE>
    - here: **Retry** this flow run, or start one with the same parameters;
    - in a terminal: `nanochat run demo`
    """
    return "\n".join(
        [
            f"# {stage} failed",
            "",
            "```",
            str(error) or type(error).__name__,
            "```",
            "",
            "What is finished is kept, and this stage goes on from its last checkpoint. To resume, once the cause is "
            "gone:",
            "",
            "- here: **Retry** this flow run, or start one with the same parameters;",
            f"- in a terminal: `{command}`",
        ]
    )


def table(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table, the newest first, with the columns that the stage has."""
    present = {name: heading for name, heading in COLUMNS.items() if any(name in line for line in lines)}
    return [{heading: shown(line.get(name)) for name, heading in present.items()} for line in reversed(lines)]


def shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most 2 * TABLE_ROWS lines that have something for the table, one a step, the last one included.

    Lines with a validation stay longest: there are few of them, and they are what is looked for.

    >>> [line["step"] for line in thinned([{"step": step, "train/loss": 1.0} for step in range(41)])][:4]
    [0, 2, 4, 6]
    >>> thinned([{"step": 5, "train/loss": 1.0}, {"step": 5, "val/bpb": 0.9}])
    [{'step': 5, 'train/loss': 1.0, 'val/bpb': 0.9}]
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in lines:
        if COLUMNS.keys() & line.keys() - {"step", "tokens"}:
            steps[line["step"]] = steps.get(line["step"], {}) | line
    found = list(steps.values())
    for kept in (VALIDATIONS, set[str]()):
        if len(found) > 2 * TABLE_ROWS:
            found = [line for i, line in enumerate(found[:-1]) if i % 2 == 0 or kept & line.keys()] + found[-1:]
    return found


def key(*words: str) -> str:
    """Return an artifact's key: lower case, digits and dashes.

    >>> key("conversations_sft", "progress")
    'conversations-sft-progress'
    """
    return re.sub("[^a-z0-9]+", "-", "-".join(words).lower())


def as_id(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))
