"""The mirror of real data as a task_data artifact, without copying it."""

from pathlib import Path
from typing import Any

from tasks_eval.task_data import TaskData


def mirror_task_data(mirror: Path) -> TaskData:
    """Return the real data sets, read where they lie."""
    sets = mirror / "datasets"

    def files(folder: str, split: str) -> list[str]:
        return [str(path) for path in sorted((sets / folder).glob(f"{split}-*.parquet"))]

    index: dict[str, dict[str, Any]] = {
        "gsm8k": {split: files("openai/gsm8k/main", split) for split in ("train", "test")},
        "mmlu": {split: files("cais/mmlu/all", split) for split in ("test", "auxiliary_train")},
        "arc": {
            f"{name}/{split}": files(f"allenai/ai2_arc/{name}", split)
            for name in ("ARC-Easy", "ARC-Challenge")
            for split in ("train", "test")
        },
        "smoltalk": {split: files("HuggingFaceTB/smol-smoltalk/data", split) for split in ("train", "test")},
        "humaneval": {"test": files("openai/openai_humaneval/openai_humaneval", "test")},
        "core": {"root": str(mirror / "eval_bundle")},
        "words": {"words": str(mirror / "words" / "words_alpha.txt")},
    }
    return TaskData(mirror, index)
