"""Data sets on the Hugging Face Hub: what files they have, and fetching them whole. Torch-free.

Built on `huggingface_hub`, which honours HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HOME, and resumes. A file counts
only when its size and, for large files, its SHA-256 are what the Hub says. Nothing here ever shows a token.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    CachedRevisionInfo,
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    is_offline_mode,
    scan_cache_dir,
)
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from nanochat_core.artifacts import sha256_of
from nanochat_core.data.retries import ATTEMPTS, retrying
from nanochat_core.errors import DataError

SHA256 = re.compile(r"[0-9a-f]{64}")
TOKEN = re.compile(r"[!-~]+")  # what an HTTP header can carry

T = TypeVar("T")


@dataclass(frozen=True)
class HubFile:
    """One file of a data set. `size` in bytes; `sha256` is known for large files only."""

    path: str
    size: int | None
    sha256: str | None


class HubDataset:
    """A data set at a revision. `endpoint`, `token` and `cache_dir` default to huggingface_hub's settings."""

    def __init__(
        self,
        repository: str,
        revision: str = "main",
        *,
        endpoint: str | None = None,
        token: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self.repository = repository
        self.revision = revision
        self.endpoint = endpoint
        self.cache_dir = cache_dir
        self._token = token or get_token()
        if self._token and not TOKEN.fullmatch(self._token):
            raise DataError(
                "HF_TOKEN holds characters that no token has (blanks, line ends, …): set it again, or unset it."
            )
        disable_progress_bars()

    def files(self) -> list[HubFile]:
        """Return the data set's files by path; offline, those in the cache. Raises DataError where it has none."""
        found = self._cached_files() if is_offline_mode() else self._listed_files()
        return sorted(found, key=lambda file: file.path)

    def fetch(self, file: HubFile, target: Path) -> None:
        """Put `file` at `target`, checked, as a real file (a hard link into the cache where that is on the same disk).

        A file that is damaged in the cache is fetched once more. Raises DataError where it stays different.
        """
        source = self._download(file, is_forced=False)
        if (problem := _difference(source, file)) and not is_offline_mode():
            source = self._download(file, is_forced=True)
            problem = _difference(source, file)
        if problem:
            raise DataError(
                f"{self.repository}/{file.path} {problem}: the Hub changed meanwhile or the disk is bad; run again."
            )
        _place(source, target)

    def _download(self, file: HubFile, *, is_forced: bool) -> Path:
        def download() -> str:
            return hf_hub_download(
                self.repository,
                file.path,
                repo_type="dataset",
                revision=self.revision,
                endpoint=self.endpoint,
                token=self._token,
                cache_dir=self.cache_dir,
                force_download=is_forced,
            )

        return Path(self._patiently(download)).resolve()

    def _listed_files(self) -> list[HubFile]:
        api = HfApi(endpoint=self.endpoint, token=self._token)
        info = self._patiently(lambda: api.dataset_info(self.repository, revision=self.revision, files_metadata=True))
        return [
            HubFile(item.rfilename, item.size, item.lfs.sha256 if item.lfs else None) for item in info.siblings or []
        ]

    def _cached_files(self) -> list[HubFile]:
        revision = self._cached_revision()
        return [
            HubFile(
                file.file_path.relative_to(revision.snapshot_path).as_posix(),
                None,
                file.blob_path.name if SHA256.fullmatch(file.blob_path.name) else None,
            )
            for file in revision.files
        ]

    def _cached_revision(self) -> CachedRevisionInfo:
        folder = self.cache_dir or Path(constants.HF_HUB_CACHE)
        with contextlib.suppress(CacheNotFound):
            for repository in scan_cache_dir(folder).repos:
                if (repository.repo_type, repository.repo_id) == ("dataset", self.repository):
                    for revision in repository.revisions:
                        if self.revision == revision.commit_hash or self.revision in revision.refs:
                            return revision
        raise DataError(
            f"HF_HUB_OFFLINE is set and the cache {folder} has no {self.repository} at {self.revision}: "
            "unset it to download the data set once."
        )

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return call(), tried again after transient network errors; every failure becomes one line."""
        try:
            return retrying(_is_transient)(call)
        except (HTTPError, HFValidationError, OSError, OfflineModeIsEnabled) as error:
            raise DataError(self._explain(error)) from None

    def _explain(self, error: Exception) -> str:
        """Say what happened in one line. Only statuses and types are quoted, so that no header can slip in."""
        place = self.endpoint or constants.ENDPOINT
        what = f"the data set {self.repository} (revision {self.revision}) at {place}"
        status = _status(error)
        if status in (401, 403) and self._token:
            return (
                f"The Hub refused the token of HF_TOKEN or `hf auth login` ({status}) for {what}: make a new one at "
                "https://huggingface.co/settings/tokens, or unset it (public data needs none)."
            )
        if isinstance(error, GatedRepoError):
            return f"Access to {what} has to be granted on its page first; then set HF_TOKEN."
        if isinstance(error, RevisionNotFoundError):
            return f"There is no such revision: {what}. Check download.revision."
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
            return f"Found nothing ({status}): {what}. Check the name; a private data set needs HF_TOKEN."
        if isinstance(error, HFValidationError):
            return f"{self.repository!r} is no name of a data set; expected owner/name."
        if isinstance(error, OSError) and error.errno:
            return f"Cannot store {what}: {error.strerror}. Free some disk, or point HF_HOME elsewhere."
        reason = f"status {status}" if status else type(error.__cause__ or error).__name__
        return (
            f"Cannot reach {what} ({reason}, {ATTEMPTS} attempts): check the network and HF_ENDPOINT; with "
            "HF_HUB_OFFLINE=1 what was downloaded before is used, and the source 'local' needs no network."
        )


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_transient(error: BaseException) -> bool:
    """Whether trying again may help: no connection, a timeout, a broken transfer, 429, or a server error."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if (status := _status(error)) is not None:
        return status == 429 or status >= 500
    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None and _is_transient(error.__cause__)
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _difference(path: Path, file: HubFile) -> str | None:
    """Return how the file on disk differs from what the Hub says, or None."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size} bytes, the Hub says {file.size}"
    if file.sha256 is not None and sha256_of(path) != file.sha256:
        return "has another SHA-256 than the Hub says"
    return None


def _place(source: Path, target: Path) -> None:
    """Make `target` a whole, real file with the bytes of `source`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # rename does nothing where both are links to the same file
