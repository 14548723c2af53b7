"""The task data stage: what conversations and benchmarks are made from. Torch-free.

`python -m nanochat_core.data.task_data FOLDER/spec.json`. In: params TaskDataSpec; for the sources local and path the
input `text`. Out: data/** and index.json:

    {"datasets": {"gsm8k": {"train": ["data/gsm8k/main/train-….parquet"], "test": […]}, …,
                  "core": {"root": "data/eval_bundle"}, "words": {"words": "data/words.txt"},
                  "custom": {"all": ["data/custom/all.jsonl"]}, "documents": {"all": ["data/documents/all.parquet"]},
                  "persona": {"persona": ["data/persona/persona.yaml"]}}}
"""

import contextlib
import re
import shutil
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from nanochat_core import paths
from nanochat_core.artifacts import StageFolder, run_stage, write_bytes, write_json
from nanochat_core.data.own import conversation_files, document_files, persona
from nanochat_core.data.remote.hub import HubDataset
from nanochat_core.data.remote.hub_store import HubFile, place
from nanochat_core.data.remote.url_file import fetch_url
from nanochat_core.data.shards import INDEX_NAME, TextShards, check_parquet, documents
from nanochat_core.errors import DataError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import TaskDataSpec, parse_params

# data set -> (repository on the Hub, {split: how the names of its files begin})
HUB_DATASETS = {
    "smoltalk": ("HuggingFaceTB/smol-smoltalk", {"train": "data/train-", "test": "data/test-"}),
    "mmlu": (
        "cais/mmlu",
        {split: f"all/{split}-" for split in ("test", "validation", "dev", "auxiliary_train")},
    ),
    "gsm8k": ("openai/gsm8k", {"train": "main/train-", "test": "main/test-"}),
    "arc": (
        "allenai/ai2_arc",
        {
            f"{part}/{split}": f"{part}/{split}-"
            for part in ("ARC-Easy", "ARC-Challenge")
            for split in ("train", "validation", "test")
        },
    ),
    "humaneval": ("openai/openai_humaneval", {"test": "openai_humaneval/test-"}),
}
COLUMNS = {"smoltalk": "messages", "mmlu": "question", "gsm8k": "question", "arc": "question", "humaneval": "prompt"}
BUNDLE = "eval_bundle"  # the folder in the zip
MAX_BUNDLE_BYTES = 8 << 30
WORDS_FILE = "data/words.txt"
WORD = re.compile(r"(?<![\w'])[a-z]{3,10}(?![\w'])")
MAX_WORDS, MIN_WORD_COUNT = 10_000, 3


def work(folder: StageFolder) -> None:
    """Fetch what the spec names, or take words from the pretraining text; write index.json and the result."""
    spec = parse_params(TaskDataSpec, folder.request.params)
    if spec.source == "hub":
        with contextlib.closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
            found = _fetch(spec, folder, metrics)
    else:
        found = {"words": words_of_text(TextShards.open(folder.input("text")), folder.path)}
    found |= _own(spec, folder.path)
    write_json(folder.path / INDEX_NAME, {"datasets": found})
    outputs = sorted(
        path.relative_to(folder.path).as_posix() for path in (folder.path / "data").rglob("*") if path.is_file()
    )
    folder.write_result(
        {"datasets": len(found), "files": len(outputs)}, [*outputs, INDEX_NAME], {"datasets": sorted(found)}
    )


def _own(spec: TaskDataSpec, folder: Path) -> dict[str, Any]:
    """Check and copy what the user brings along: conversations, a persona, documents."""
    places = {
        conversation_files.DATASET: (spec.custom_path, conversation_files.copy_conversations),
        persona.DATASET: (spec.persona_path, persona.copy_persona),
        document_files.DATASET: (spec.documents_path, document_files.copy_documents),
    }
    return {name: copy(Path(place).expanduser(), folder) for name, (place, copy) in places.items() if place}


def _fetch(spec: TaskDataSpec, folder: StageFolder, metrics: MetricsWriter) -> dict[str, Any]:
    """Fetch each data set; what an earlier attempt left in data/ is removed first, the caches make that cheap."""
    shutil.rmtree(folder.path / "data", ignore_errors=True)
    base = folder.artifacts_root.parent
    downloads = base / "downloads"
    found: dict[str, Any] = {}
    for done, name in enumerate(spec.datasets, start=1):
        if name == "core":
            found[name] = unpack_bundle(fetch_url(spec.core_bundle_url, downloads), folder.path)
        elif name == "words":
            found[name] = copy_words(fetch_url(spec.words_url, downloads), folder.path)
        else:
            found[name] = fetch_dataset(name, folder.path, paths.hub_dir(base), num_workers=spec.num_workers)
        metrics.write(done, total_steps=len(spec.datasets), progress=f"{name} fetched")
    return found


def fetch_dataset(name: str, folder: Path, store: Path, *, num_workers: int = 4) -> dict[str, list[str]]:
    """Download every split of a data set; return {split: its files, relative to `folder`}.

    Raises DataError where a split has no file or a file lacks the column that the task reads.
    """
    repository, prefixes = HUB_DATASETS[name]
    dataset = HubDataset(repository, store=store)
    files = dataset.files()
    splits = {split: [file for file in files if file.path.startswith(prefix)] for split, prefix in prefixes.items()}
    if missing := [split for split, found in splits.items() if not found]:
        raise DataError(
            f"{repository} has no file for {', '.join(missing)}: the data set has changed; see HUB_DATASETS."
        )

    def fetch(file: HubFile) -> None:
        target = folder / _place_of(name, file)
        place(dataset.fetch(file), target)
        check_parquet(target, COLUMNS[name])

    with ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(fetch, [file for found in splits.values() for file in found]))
    return {split: [_place_of(name, file) for file in found] for split, found in splits.items()}


def _place_of(name: str, file: HubFile) -> str:
    return f"data/{name}/{file.path}"


def unpack_bundle(archive: Path, folder: Path) -> dict[str, str]:
    """Unpack the CORE bundle into `folder`/data; return {"root": its folder}.

    Only plain files below eval_bundle/ are taken. Raises DataError for a zip that is corrupt, too large, without
    core.yaml, or that names files outside its folder.
    """
    root = folder / "data" / BUNDLE
    temporary = folder / "data" / f".{BUNDLE}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as bundle:
            for member in _safe_members(bundle, archive):
                target = temporary / PurePosixPath(member.filename).relative_to(BUNDLE)
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{archive} is no whole zip file ({error}): remove it and its .json, and check the URL."
        ) from None
    if not (temporary / "core.yaml").is_file():
        raise DataError(f"{archive} has no {BUNDLE}/core.yaml: check task_data.core_bundle_url.")
    shutil.rmtree(root, ignore_errors=True)
    temporary.rename(root)
    return {"root": f"data/{BUNDLE}"}


def _safe_members(bundle: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """Return the files of the bundle; a zip with a hostile name, a link or too many bytes is refused whole.

    zipfile stops reading a member at the size that it declares, so the declared sizes are the bound.
    """
    members = []
    for member in bundle.infolist():
        path = PurePosixPath(member.filename)
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in member.filename
            or stat.S_ISLNK(member.external_attr >> 16)
        ):
            raise DataError(f"{archive} holds {member.filename!r}, which would leave its folder: do not use this file.")
        if not member.is_dir() and path.parts[0] == BUNDLE and not path.name.startswith("."):
            members.append(member)
    if (size := sum(member.file_size for member in members)) > MAX_BUNDLE_BYTES:
        raise DataError(
            f"{archive} unpacks to {size:,} bytes, more than {MAX_BUNDLE_BYTES:,}: check task_data.core_bundle_url."
        )
    return members


def copy_words(source: Path, folder: Path) -> dict[str, str]:
    """Copy a word list, one word a line; raises DataError where it holds no lowercase word."""
    text = source.read_text(encoding="utf-8", errors="replace")
    return _write_words((word.strip() for word in text.splitlines()), folder, str(source))


def words_of_text(shards: TextShards, folder: Path) -> dict[str, str]:
    """Write the most frequent words of 3 to 10 lowercase ASCII letters of the training text, in alphabetic order."""
    counts: Counter[str] = Counter()
    for text in documents(shards.train):
        counts.update(WORD.findall(text))
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
    return _write_words(
        sorted(word for word, count in frequent if count >= MIN_WORD_COUNT), folder, "the training text"
    )


def _write_words(words: Iterable[str], folder: Path, source: str) -> dict[str, str]:
    kept = [word for word in words if word]
    if not any(word.isascii() and word.isalpha() and word.islower() for word in kept):
        raise DataError(f"{source} holds no lowercase words: spelling tasks need some; check its content.")
    path = folder / WORDS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, "".join(f"{word}\n" for word in kept).encode())
    return {"words": WORDS_FILE}


if __name__ == "__main__":
    run_stage(work)
