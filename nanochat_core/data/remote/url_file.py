"""Files that are not on the Hub: fetched by URL, remembered by their hash. Torch-free.

$NANOCHAT_BASE_DIR/downloads/<hash of the URL>-<name> holds the bytes, and <the same>.json the SHA-256 of the first
download. Whatever arrives later must have that hash.
"""

import hashlib
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from nanochat_core.artifacts import read_json, sha256_of, write_json
from nanochat_core.data.remote.transfer import MAX_BYTES, is_transient, reason_of, receive, status_of
from nanochat_core.errors import DataError, Unreachable


def fetch_url(url: str, downloads: Path) -> Path:
    """Return the file behind `url`, from `downloads` where it is there unchanged, else fetched.

    Raises DataError where the URL cannot be reached, or where its bytes are not those of the first download.
    """
    path = downloads / _file_name(url)
    record = path.with_name(f"{path.name}.json")
    known = read_json(record)["sha256"] if record.exists() else None
    if known and path.is_file() and sha256_of(path) == known:
        return path
    downloads.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _download(url, temporary)
        digest = sha256_of(temporary)
        if known and digest != known:
            raise DataError(
                f"{url} now has the SHA-256 {digest[:16]}…, the first download had {known[:16]}…: if you trust the new "
                f"file, remove {record} and run again."
            )
        if not known:
            write_json(record, {"url": url, "sha256": digest, "size": temporary.stat().st_size})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _file_name(url: str) -> str:
    parsed = urlparse(url)
    if parsed.scheme not in ("http", "https") or not parsed.netloc:
        raise DataError(f"{url!r} is no http(s) address: check the task_data URLs.")
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{PurePosixPath(parsed.path).name or 'file'}"


def _download(url: str, target: Path) -> None:
    """Write the bytes behind `url`; tried again after transient network errors."""
    try:
        receive(url, target, headers={}, size=None, is_pinned=False)
    except OfflineModeIsEnabled:
        raise DataError(f"HF_HUB_OFFLINE is set and {url} was never downloaded: unset it once.") from None
    except (HTTPError, OSError) as error:
        if is_transient(error):
            raise Unreachable(f"Cannot reach {url} ({reason_of(error)}): check the network and run again.") from None
        if status := status_of(error):
            raise DataError(f"{url} answers {status}: check the URL in the task_data settings.") from None
        raise DataError(
            f"Cannot store {url} at {target}: {getattr(error, 'strerror', error)}. Free some disk."
        ) from None
    if target.stat().st_size > MAX_BYTES:
        raise DataError(f"{url} is larger than {MAX_BYTES >> 30} GiB: that is not the file meant; check the URL.")
