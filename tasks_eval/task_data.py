"""The task_data artifact: which files each data set has, and rows out of its parquet files, in a fixed shuffled order.

`index.json` = {"datasets": {"gsm8k": {"train": ["data/….parquet"], "test": […]}, …, "core": {"root": "data/…"},
"words": {"words": "data/words.txt"}}}; it lists only what was fetched.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.artifacts import read_json
from nanochat_core.errors import DataError

SHUFFLE_SEED = 42


@dataclass(frozen=True)
class Rows:
    """The rows of a data set's split, shuffled by `numpy.random.default_rng(42).permutation`."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def order(self) -> list[int]:
        return [int(row) for row in np.random.default_rng(SHUFFLE_SEED).permutation(len(self))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.order[index]
        return {name: self.table.column(name)[row].as_py() for name in self.table.column_names}


@dataclass(frozen=True)
class TaskData:
    """An opened task_data folder."""

    folder: Path
    datasets: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> "TaskData":
        """Read the folder's index.json; raises ArtifactError where there is none."""
        return cls(folder, read_json(folder / "index.json")["datasets"])

    def rows(self, dataset: str, split: str) -> Rows:
        """Return the rows of one split; raises DataError where it was not fetched or a file cannot be read."""
        try:
            rows = Rows(pa.concat_tables([pq.read_table(file) for file in self.files(dataset, split)]))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"Cannot read {dataset}/{split}: {error}. Run the stage task_data again.") from error
        if not len(rows):
            raise DataError(f"The data set {dataset!r} has no rows in {split!r}. Run the stage task_data again.")
        return rows

    def files(self, dataset: str, split: str) -> list[Path]:
        """Return the files of one split; raises DataError where it was not fetched."""
        return [self.folder / name for name in self._entry(dataset, split)]

    def words(self) -> list[str]:
        """Return the word list: lower-case ASCII words, sorted, each once."""
        text = (self.folder / self._entry("words", "words")).read_text(encoding="utf-8")
        words = sorted({word for word in text.split() if word.isascii() and word.isalpha() and word.islower()})
        if not words:
            raise DataError(
                f"The word list in {self.folder} has no lower-case ASCII word. Run the stage task_data again."
            )
        return words

    def core_root(self) -> Path | None:
        """Return the folder of the CORE bundle, or None where it was not fetched."""
        entry = self.datasets.get("core")
        return self.folder / entry["root"] if entry else None

    def _entry(self, dataset: str, part: str) -> Any:
        if dataset not in self.datasets:
            known = ", ".join(sorted(self.datasets)) or "nothing"
            field = {"custom": "custom_path", "documents": "documents_path"}.get(dataset)
            remedy = f"set task_data.{field}" if field else f"add {dataset!r} to task_data.datasets"
            raise DataError(f"The data set {dataset!r} was not fetched (there is {known}): {remedy}.")
        if part not in self.datasets[dataset]:
            known = ", ".join(sorted(self.datasets[dataset]))
            raise DataError(
                f"The data set {dataset!r} has no part {part!r}, it has {known}. Run the stage task_data again."
            )
        return self.datasets[dataset][part]
