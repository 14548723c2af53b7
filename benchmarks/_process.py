"""A contender of a benchmark in a process of its own, which is asked line by line and answers in JSON."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

CLOSE_SECONDS = 60


class ContenderProcess:
    """A script of benchmarks/ with its setup, a dataclass, as its one argument; the process ends with the block."""

    def __init__(self, script: str, setup: Any, *, threads: int) -> None:
        self._setup = setup
        command = [sys.executable, str(Path(__file__).with_name(script)), json.dumps(dataclasses.asdict(setup))]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def ask(self, line: str) -> dict[str, Any]:
        """Return the answer to a line; raises RuntimeError where the process ended instead."""
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._setup} ended with {self._process.wait()} at {line[:80]!r}.")
        return json.loads(answer)
