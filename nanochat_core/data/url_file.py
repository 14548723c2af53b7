"""Files that are not on the Hub: fetched by URL, remembered by their hash. Torch-free.

$NANOCHAT_BASE_DIR/downloads/<hash of the URL>-<name> holds the bytes, and <the same>.json the SHA-256 of the first
download. Whatever arrives later must have that hash.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from nanochat_core.artifacts import read_json, sha256_of, write_json
from nanochat_core.data.retries import ATTEMPTS, retrying
from nanochat_core.errors import DataError

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
MAX_BYTES = 4 << 30


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
        retrying(_is_transient)(_download_once, url, target)
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{url} answers {error.code} {error.reason}: check the URL in the task_data settings."
        ) from None
    except urllib.error.URLError as error:
        raise DataError(f"Cannot reach {url} ({error.reason}, {ATTEMPTS} attempts): check the network.") from None
    except (ConnectionError, TimeoutError) as error:
        raise DataError(f"{url} broke off ({error}, {ATTEMPTS} attempts): check the network.") from None
    except OSError as error:
        raise DataError(f"Cannot store {url} at {target}: {error.strerror}. Free some disk.") from None


def _open_url(url: str) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # it is the response too, with an open socket
        raise


def _download_once(url: str, target: Path) -> None:
    size = 0
    with _open_url(url) as response, open(target, "wb") as file:
        expected = response.headers.get("Content-Length")
        while chunk := response.read(CHUNK_BYTES):
            size += len(chunk)
            if size > MAX_BYTES:
                raise DataError(
                    f"{url} is larger than {MAX_BYTES >> 30} GiB: that is not the file meant; check the URL."
                )
            file.write(chunk)
    if expected is not None and size != int(expected):
        raise ConnectionError(f"{size} of {expected} bytes arrived")


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code == 429 or error.code >= 500
    return isinstance(error, urllib.error.URLError | ConnectionError | TimeoutError)
