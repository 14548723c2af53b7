"""Where things live on disk. Everything that the project writes is below one base folder."""

import os
from pathlib import Path


def base_dir() -> Path:
    """Return $NANOCHAT_BASE_DIR, or ~/.cache/nanochat, as an absolute path (not created)."""
    return Path(os.environ.get("NANOCHAT_BASE_DIR") or "~/.cache/nanochat").expanduser().absolute()


def artifacts_dir(base: Path) -> Path:
    """One folder for each stage, and in it one for each fingerprint."""
    return base / "artifacts"


def locks_dir(base: Path) -> Path:
    return base / "locks"


def hub_dir(base: Path) -> Path:
    """Files of the Hugging Face Hub, whole and checked, shared by all runs: a cache that anybody may delete."""
    return base / "hub"


def tokens_dir(base: Path) -> Path:
    """Tokenised shards, by the hashes of tokenizer and text: a cache that anybody may delete."""
    return base / "tokens"


def compile_dir(base: Path) -> Path:
    """What torch.compile has made: a cache that anybody may delete, and nobody but its owner may write."""
    return base / "compile"


def reports_dir(base: Path) -> Path:
    return base / "reports"


def prefect_home(base: Path) -> Path:
    """Prefect's records lie beside the artifacts, so that the two live and die together."""
    return base / "prefect"


def mlflow_dir(base: Path) -> Path:
    return base / "mlflow"
