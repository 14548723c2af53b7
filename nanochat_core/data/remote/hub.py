"""Data sets on the Hugging Face Hub: what files they have, and fetching them whole. Torch-free.

Built on `huggingface_hub`, which honours HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. All files of one listing come from
one commit. A file counts only when its size and, for large files, its SHA-256 are what the Hub says; `transfer.py`
receives it, `hub_store.py` keeps it. Nothing here ever shows a token.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from nanochat_core.data.remote.hub_store import (
    COMMIT,
    HubFile,
    difference,
    folder_of,
    load_listing,
    only_one,
    place,
    place_of,
    save_listing,
)
from nanochat_core.data.remote.retries import retrying
from nanochat_core.data.remote.transfer import asked_seconds, is_transient, reason_of, receive, status_of
from nanochat_core.errors import DataError, Unreachable

TOKEN = re.compile(r"[!-~]+")  # what an HTTP header can carry


class HubDataset:
    """A data set at a revision, kept in `store` (`paths.hub_dir`). `endpoint` and `token` default to the client's."""

    def __init__(
        self,
        repository: str,
        revision: str = "main",
        *,
        store: Path,
        endpoint: str | None = None,
        token: str | None = None,
    ) -> None:
        self.repository = repository
        self.revision = revision
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.folder = folder_of(store, repository)
        self._token = token or get_token()
        if self._token and not TOKEN.fullmatch(self._token):
            raise DataError(
                "HF_TOKEN holds characters that no token has (blanks, line ends, …): set it again, or unset it."
            )

    def files(self) -> list[HubFile]:
        """Return the data set's files by path, of one commit; offline, those of the last listing.

        Raises DataError where the data set is not there, Unreachable where the Hub is not.
        """
        with self._explained():
            may_have_moved = not (is_offline_mode() or COMMIT.fullmatch(self.revision))
            if not may_have_moved and (known := load_listing(self.folder, self.revision)) is not None:
                return known
            files = retrying(is_transient, asked_seconds)(self._listed_files)
            save_listing(self.folder, self.revision, files)
        return files

    def fetch(self, file: HubFile) -> Path:
        """Return where `file` lies in the store, whole and checked; what is missing of it is fetched.

        Raises DataError where it arrives different twice or cannot be stored, Unreachable where the Hub is not there.
        """
        path = place_of(self.folder, file)
        with self._explained(file.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with only_one(path):
                if difference(path, file):
                    self._complete(file, path)
        return path

    def _complete(self, file: HubFile, path: Path) -> None:
        """Make `path` from the client's own cache or from the Hub; a file that arrives damaged is fetched once more."""
        cached = try_to_load_from_cache(self.repository, file.path, revision=file.commit, repo_type="dataset")
        if isinstance(cached, str) and not difference(Path(cached), file):
            place(Path(cached).resolve(), path)
            return
        part = path.with_name(f".{path.name}.part")
        url = hf_hub_url(self.repository, file.path, repo_type="dataset", revision=file.commit, endpoint=self.endpoint)
        for _ in range(2):
            receive(url, part, headers=build_hf_headers(token=self._token), size=file.size, is_pinned=True)
            problem = difference(part, file)
            if not problem:
                os.replace(part, path)
                return
            part.unlink()
        raise DataError(
            f"{self.repository}/{file.path} {problem}, twice: a proxy or the Hub's copy is damaged; run again later."
        )

    def _listed_files(self) -> list[HubFile]:
        api, timeout = HfApi(endpoint=self.endpoint, token=self._token), constants.HF_HUB_ETAG_TIMEOUT
        try:
            info = api.dataset_info(self.repository, revision=self.revision, files_metadata=True, timeout=timeout)
        except (HTTPError, HFValidationError):
            raise
        except (ValueError, TypeError, KeyError):  # a page to log in to, an error in prose
            raise DataError(
                f"What answers at {_public(self.endpoint)} for {self.repository} is no list of files: check "
                "HF_ENDPOINT and the proxy."
            ) from None
        found = [
            HubFile(info.sha or self.revision, item.rfilename, item.size, item.lfs.sha256 if item.lfs else None)
            for item in info.siblings or []
        ]
        return sorted(found, key=lambda file: file.path)

    @contextlib.contextmanager
    def _explained(self, path: str | None = None) -> Iterator[None]:
        """Turn every failure of the network, the Hub and the disk into one line."""
        try:
            yield
        except (HTTPError, HFValidationError, OSError) as error:
            kind = Unreachable if is_transient(error) else DataError
            raise kind(self._explain(error, path)) from None

    def _explain(self, error: Exception, path: str | None) -> str:
        """Say what happened in one line. Only statuses and types are quoted, so that no header can slip in."""
        what = f"the data set {self.repository} (revision {self.revision}) at {_public(self.endpoint)}"
        what = f"{path} of {what}" if path else what
        status = status_of(error)
        if isinstance(error, OfflineModeIsEnabled):
            return f"HF_HUB_OFFLINE is set and {self.folder} does not have {what}: unset it to download this once."
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
            return f"Cannot store {what}: {error.strerror}. Free some disk, or point NANOCHAT_BASE_DIR elsewhere."
        return (
            f"Cannot reach {what} ({reason_of(error)}): check the network and HF_ENDPOINT, and run again: only what is "
            "missing is fetched. With HF_HUB_OFFLINE=1 what was downloaded before is used."
        )


def _public(url: str) -> str:
    """Return a URL without what may be secret in it.

    >>> _public("https://user:secret@mirror.example:8443/hub?key=1")
    'https://mirror.example:8443/hub'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
