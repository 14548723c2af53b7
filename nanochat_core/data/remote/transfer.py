"""The bytes behind a URL, received into a partial file that a later attempt or process goes on with. Torch-free.

huggingface_hub's own `hf_hub_download` (2.4) is not used: it throws a partial file away when it ends, waits as long as
any Retry-After says, and asks a silent server for more than six minutes. This uses its session, which knows proxies,
certificates and the offline mode.
"""

import contextlib
import os
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status

from nanochat_core.data.remote.retries import retrying

ENOUGH_PROGRESS_BYTES = 1 << 20  # attempts that brought as much as this, together, are followed by as many again
MAX_BYTES = 4 << 30  # where nobody says how large the file is
CONTENT_RANGE = re.compile(r"bytes (\d+)-")
RATE_LIMIT_RESET = re.compile(r"\bt\s*=\s*(\d+)")  # in the Hub's header RateLimit: "resolvers";r=0;t=55


def receive(url: str, part: Path, *, headers: dict[str, str], size: int | None, is_pinned: bool) -> None:
    """Complete the file `part` with the bytes behind `url`, tried again after transient errors.

    If `is_pinned` (the URL always gives the same bytes), what `part` holds is kept and only the rest is asked for. A
    body that goes on past `size` bytes (MAX_BYTES where that is None) is left off there, too long, for the caller to
    see. Raises what the last attempt raised: see `is_transient`; an OSError with an errno is the disk's.
    """
    if not is_pinned:
        part.unlink(missing_ok=True)
    while True:
        before = _size_of(part)
        try:
            return retrying(is_transient, asked_seconds)(_receive_rest, url, part, headers, size, is_pinned)
        except (HTTPError, OSError) as error:
            if not is_transient(error) or _size_of(part) - before < ENOUGH_PROGRESS_BYTES:
                raise


def _receive_rest(url: str, part: Path, headers: dict[str, str], size: int | None, is_pinned: bool) -> None:
    start = _size_of(part) if is_pinned else 0
    if size is not None and start == size:
        return
    ranged = {"Range": f"bytes={start}-"} if start else {}
    ranged["Accept-Encoding"] = "identity"  # else the sizes are not those of the file
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds without a byte, or until connected
    with get_session().stream("GET", url, headers=headers | ranged, timeout=timeout, follow_redirects=True) as response:
        if response.status_code == 416 or not _starts_at(response, start):
            part.unlink(missing_ok=True)
            raise ConnectionError("the server does not go on where the last attempt stopped")
        hf_raise_for_status(response)
        _append(response, part, MAX_BYTES if size is None else size)
    if size is not None and _size_of(part) < size:
        raise ConnectionError(f"{_size_of(part):,} of {size:,} bytes arrived")


def _starts_at(response: Any, start: int) -> bool:
    """Tell whether a partial answer is the part that was asked for."""
    begin = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    return response.status_code != 206 or (begin is not None and int(begin[1]) == start)


def _append(response: Any, part: Path, limit: int) -> None:
    """Write the body at the end of `part`, or as the whole of it where the server sends all."""
    with open(part, "ab" if response.status_code == 206 else "wb") as file:
        for chunk in response.iter_raw():
            file.write(chunk)
            if file.tell() > limit:
                return
        file.flush()
        os.fsync(file.fileno())


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that a server refused with, or None where the error is of another kind."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_transient(error: BaseException) -> bool:
    """Tell whether trying again may help: no connection, a time-out, a broken transfer, 408, 429, a server error."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if (status := status_of(error)) is not None:
        return status in (408, 429) or status >= 500
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def asked_seconds(error: BaseException) -> float | None:
    """Return how long the server that raised `error` asks to wait, or None where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    if not (said := headers.get("Retry-After", "").strip()):
        reset = RATE_LIMIT_RESET.search(headers.get("RateLimit", "")) if status_of(error) == 429 else None
        return float(reset[1]) if reset else None
    if said.isdigit():
        return float(said)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    return None


def reason_of(error: BaseException) -> str:
    """Say in a few words what kept the bytes from coming. No header is quoted, so that no token can slip in."""
    if status := status_of(error):
        asked = asked_seconds(error)
        return f"status {status}" + (f", asks to wait {asked:,.0f} s" if asked else "")
    if isinstance(error, ConnectionError):
        return str(error)
    return type(error.__cause__ or error).__name__
