"""The user's own preferences: JSONL and parquet files of two answers to one prompt. Torch-free.

A line, or a row, is {"prompt": …, "chosen": …, "rejected": …}. A prompt is a text, or the messages of a conversation
that ends with the user's; an answer is a text, a list of parts (`chat_format`), or a whole conversation that ends with
the answer, and then the prompt may be missing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.chat_format import SHOWN_PROBLEMS, normalize, parsed
from nanochat_core.data.own.file_splits import SPLITS, WHOLE, state_of
from nanochat_core.errors import DataError

KINDS = (".jsonl", ".parquet")
SIDES = ("chosen", "rejected")

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Pair:
    """A prompt (messages, the last one the user's) and two answers to it: contents of the assistant's next message."""

    prompt: Messages
    chosen: Any
    rejected: Any

    def conversation(self, side: str) -> dict[str, Any]:
        """Return the prompt with one of its answers, "chosen" or "rejected"."""
        return {"messages": [*self.prompt, {"role": "assistant", "content": getattr(self, side)}]}

    @property
    def prompt_key(self) -> str:
        """A text that is the same for equal prompts."""
        return json.dumps(self.prompt, sort_keys=True)


def preference_files(place: Path) -> dict[str, Path]:
    """Return {split: file} of what is at `place`; raises DataError where there is nothing to read."""
    if place.is_file():
        if place.suffix not in KINDS:
            raise DataError(
                f"{place} is no {' or '.join(KINDS)} file: pairs (prompt, chosen, rejected) are read of these."
            )
        return {WHOLE: place}
    if not place.is_dir():
        raise DataError(f"There is no file {place}: name a {' or '.join(KINDS)} file of pairs (preferences.path).")
    found = {split: [path for kind in KINDS if (path := place / f"{split}{kind}").is_file()] for split in SPLITS}
    if wrong := [split for split, paths in found.items() if len(paths) != 1]:
        raise DataError(
            f"The folder {place} has {len(found[wrong[0]]) or 'no'} files {wrong[0]}.jsonl or .parquet, expected one: "
            "put a train and a test file there, or name one file, of which some is held out (preferences.path)."
        )
    return {split: paths[0] for split, paths in found.items()}


def state_of_preferences(place: Path) -> str | None:
    """Return what is another once the files at `place` were written; None for no files."""
    return state_of(preference_files, place)


def read_preferences(path: Path) -> list[Pair]:
    """Return the pairs of a file; blank lines are skipped.

    Raises DataError that names the file, and the line or row of everything that is wrong, the first few with reasons.
    """
    pairs, problems = [], []
    for place, row in _rows(path):
        try:
            pairs.append(pair_of(parsed(row) if isinstance(row, bytes) else row))
        except DataError as error:
            problems.append(f"{path}:{place}: {error}")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = f"; and {more:,} more bad lines, of {len(pairs) + len(problems):,}" if more > 0 else ""
        raise DataError("; ".join(problems[:SHOWN_PROBLEMS]) + tail)
    if not pairs:
        raise DataError(f"{path} holds no pairs. Write one object with prompt, chosen and rejected a line.")
    return pairs


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line or row, counted from 1, what is there): of JSONL its bytes, of parquet its columns."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                columns = [name for name in ("prompt", *SIDES) if name in file.schema_arrow.names]
                yield from enumerate(file.read(columns=columns).to_pylist(), start=1)
            return
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read {path}: {' '.join(str(error).split())[:160]}. Expected pairs of answers."
        ) from None
    yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def pair_of(row: Any) -> Pair:
    """Return the pair in a row, checked; raises DataError that says what is wrong with it.

    >>> pair_of({"prompt": "2+2?", "chosen": "4", "rejected": "5"}).prompt
    [{'role': 'user', 'content': '2+2?'}]
    """
    if not isinstance(row, dict) or any(row.get(side) is None for side in SIDES):
        found = f"the fields {', '.join(map(str, row)) or 'none'}" if isinstance(row, dict) else repr(row)[:80]
        raise DataError(f"expected prompt, chosen and rejected, got {found}")
    sides = [_answer(row[side], side) for side in SIDES]
    prompts = [messages for messages, _ in sides if messages]
    if row.get("prompt"):
        prompts.append(_prompt(row["prompt"]))
    if not prompts:
        raise DataError("there is no prompt, neither by itself nor before the answers")
    if any(prompt != prompts[0] for prompt in prompts):
        raise DataError("the two answers are to different prompts")
    pair = Pair(normalize(prompts[0]), sides[0][1], sides[1][1])
    if len(pair.prompt) % 2 == 0:
        raise DataError("the prompt ends with the assistant's words, expected the user's")
    for side in SIDES:
        normalize(pair.conversation(side)["messages"])
    return pair


def _prompt(value: Any) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if _is_messages(value):
        return _plain(value)
    raise DataError(f"the prompt is {repr(value)[:60]}, expected a text or a list of messages")


def _answer(value: Any, side: str) -> tuple[Messages, Any]:
    """Return (the messages before the answer, if they are there, and the answer's content)."""
    if not _is_messages(value):
        return [], value  # a text or parts; `normalize` looks at it
    *before, last = _plain(value)
    if last["role"] != "assistant":
        raise DataError(f"{side} ends with a message of {last['role']!r}, expected the assistant's answer")
    return before, last["content"]


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "role" in item for item in value)


def _plain(messages: Messages) -> Messages:
    """Return the messages with nothing but role and content."""
    return [{"role": message["role"], "content": message.get("content")} for message in messages]
