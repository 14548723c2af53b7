"""A loopback server that serves a folder in the Hub's layout as the real `huggingface_hub` client expects it.

The folder holds datasets/<org>/<name>/…, eval_bundle/… and words/words_alpha.txt; `hub_miniature.py` makes a small one.
By hand:

    python tests/hub_server.py --root FOLDER --port 8123

prints the environment variables and the options with which `nanochat run demo --data hub` uses it. It offers plain HTTP
only (no Xet), knows one token, and answers 401 to any other. With `fail` it breaks as real servers and networks do.
"""

import argparse
import functools
import hashlib
import json
import re
import shutil
import socket
import struct
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

VALID_TOKEN = "hf_validTokenOfTheTestServer"
API = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER
CHUNK_BYTES = 1 << 18
WHOLE = -1
OTHER_BYTES = bytes(255 - byte for byte in range(256))


@dataclass(frozen=True)
class Fault:
    """What becomes of one request; `hub_faults.py` names the usual ones. Each field is another fault.

    `status`: it is refused, with `retry_after` as a header. `prose`: the answer is this text with status 200.
    `location`: it is sent there. `is_unranged`: all is sent though only the rest was asked for. `is_changed`: the body
    has other bytes, as many. `after`: of the body only so many bytes are sent (None: not even a head), and then the
    connection ends in order ("close"), or as after a crash ("reset"), or never ("silence"). `is_admitted`: the head
    announces no more than these.
    """

    status: int | None = None
    retry_after: str | None = None
    prose: str | None = None
    location: str | None = None
    is_unranged: bool = False
    is_changed: bool = False
    after: int | None = WHOLE
    ending: Literal["close", "reset", "silence"] = "close"
    is_admitted: bool = False


@dataclass
class Visit:
    """One request: when it came (monotonic seconds), the first byte that it asked for, and the bytes of body sent."""

    time: float
    path: str
    start: int = 0
    sent: int = 0
    is_authorized: bool = False


class HubServer:
    """Serves `root` on 127.0.0.1 in a thread; a context manager. `visits` are all requests in the order they came."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        self.visits: list[Visit] = []
        self.closing = threading.Event()
        self._faults: dict[str, Iterator[Fault]] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="hub-server-"))
        self._lock = threading.Lock()
        self._http = QuietServer(("127.0.0.1", port), type("Request", (HubRequest,), {"hub": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def core_bundle_url(self) -> str:
        return f"{self.endpoint}/eval_bundle.zip"

    @property
    def words_url(self) -> str:
        return f"{self.endpoint}/words_alpha.txt"

    @property
    def requests(self) -> Counter[str]:
        """Return how often each URL path was asked for."""
        return Counter(visit.path for visit in list(self.visits))

    @property
    def sent(self) -> Counter[str]:
        """Return how many bytes of body were sent of each URL path."""
        total: Counter[str] = Counter()
        for visit in list(self.visits):
            total[visit.path] += visit.sent
        return total

    def fail(self, path: str, faults: Iterable[Fault] = ()) -> None:
        """Let the next requests of a URL path go wrong, one fault each; without faults all is well again."""
        self._faults[path] = iter(faults)

    def next_fault(self, path: str) -> Fault | None:
        with self._lock:
            return next(self._faults.get(path, iter(())), None)

    def environment(self, hf_home: Path) -> dict[str, str]:
        """Return the variables that point the real client here, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(hf_home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def url_path_of(self, repository: str, name: str) -> str:
        """Return the URL path under which a file is asked for by its commit, as after a listing."""
        return f"/datasets/{repository}/resolve/{self.commit_of(repository)}/{name}"

    def folder_of(self, repository: str) -> Path:
        return self.root / "datasets" / repository

    def commit_of(self, repository: str) -> str:
        """Return 40 hex digits that change with the files' names and sizes."""
        names = [(path.as_posix(), path.stat().st_size) for path in self.files_of(repository)]
        return hashlib.sha1(json.dumps(names).encode()).hexdigest()

    def files_of(self, repository: str) -> list[Path]:
        return sorted(path for path in self.folder_of(repository).rglob("*") if path.is_file())

    def bundle(self) -> Path:
        """Return eval_bundle.zip, made on first use without compression."""
        archive = self._scratch / "eval_bundle.zip"
        with self._lock:
            if not archive.exists():
                with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
                    for path in sorted((self.root / "eval_bundle").rglob("*")):
                        bundle.write(path, path.relative_to(self.root))
        return archive


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that went away."""

    def handle_error(self, *_: object) -> None:
        pass


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    info = path.stat()
    return _sha256(path, info.st_size, info.st_mtime_ns)


class HubRequest(BaseHTTPRequestHandler):
    """One connection; `hub` is set by the server that it belongs to."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    fault: Fault
    visit: Visit

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.fault = self.hub.next_fault(path) or Fault()
        authorization = self.headers.get("Authorization")
        self.visit = Visit(time.monotonic(), path, is_authorized=authorization is not None)
        self.hub.visits.append(self.visit)
        if self.fault.after is None:
            self._end()
        elif self.fault.status:
            self._refuse(self.fault.status, "try again", retry_after=self.fault.retry_after)
        elif self.fault.location:
            self._send_head(HTTPStatus.FOUND, {"Location": self.fault.location, "Content-Length": "0"})
        elif self.fault.prose is not None:
            self._send_text(self.fault.prose, "text/html")
        elif authorization not in (None, f"Bearer {VALID_TOKEN}"):
            self._refuse(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        elif match := RESOLVE.fullmatch(path):
            self._send_resolved(match["repo"], match["revision"], match["path"])
        elif match := API.fullmatch(path):
            self._send_listing(match["repo"], match["what"], match["revision"] or "main")
        elif path == "/eval_bundle.zip":
            self._send_file(self.hub.bundle(), {})
        elif path == "/words_alpha.txt":
            self._send_file(self.hub.root / "words" / "words_alpha.txt", {})
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "Not found")

    def _send_resolved(self, repository: str, revision: str, name: str) -> None:
        folder, path = self.hub.folder_of(repository), self.hub.folder_of(repository) / name
        if not self._has_revision(repository, revision):
            return
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            self._refuse(HTTPStatus.NOT_FOUND, "Entry not found", code="EntryNotFound")
            return
        digest = sha256_of(path)
        headers = {
            "X-Repo-Commit": self.hub.commit_of(repository),
            "ETag": f'"{digest}"',
            "X-Linked-ETag": f'"{digest}"',
            "X-Linked-Size": str(path.stat().st_size),
        }
        self._send_file(path, headers)

    def _has_revision(self, repository: str, revision: str) -> bool:
        if not self.hub.folder_of(repository).is_dir():
            self._refuse(HTTPStatus.NOT_FOUND, "Repository not found", code="RepoNotFound")
        elif revision not in ("main", self.hub.commit_of(repository)):
            self._refuse(HTTPStatus.NOT_FOUND, "Invalid rev id", code="RevisionNotFound")
        else:
            return True
        return False

    def _send_listing(self, repository: str, what: str | None, revision: str) -> None:
        if not self._has_revision(repository, revision):
            return
        entries = [_entry(path, self.hub.folder_of(repository)) for path in self.hub.files_of(repository)]
        if what == "tree":
            self._send_json([{"type": "file", "oid": e["blobId"], "path": e["rfilename"], **e} for e in entries])
            return
        commit = self.hub.commit_of(repository)
        facts = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        self._send_json({"_id": "0", "id": repository, "sha": commit, **facts, "siblings": entries})

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        size = path.stat().st_size
        start, end, status = 0, size - 1, HTTPStatus.OK
        asked = "" if self.fault.is_unranged else self.headers.get("Range", "")
        if match := RANGE.fullmatch(asked):
            start, end = int(match[1]), min(int(match[2] or size - 1), size - 1)
            if start >= size:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "Range not satisfiable")
                return
            status = HTTPStatus.PARTIAL_CONTENT
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}
        length = self.fault.after if self.fault.is_admitted else end - start + 1
        self.visit.start = start
        self._send_head(status, {**headers, "Content-Length": str(length), "Accept-Ranges": "bytes"})
        with open(path, "rb") as file:
            file.seek(start)
            self._send_body(iter(lambda: file.read(min(CHUNK_BYTES, end + 1 - file.tell())), b""))

    def _send_json(self, value: Any) -> None:
        self._send_text(json.dumps(value), "application/json")

    def _send_text(self, text: str, kind: str) -> None:
        body = text.encode()
        self._send_head(HTTPStatus.OK, {"Content-Type": kind, "Content-Length": str(len(body))})
        self._send_body([body])

    def _send_body(self, chunks: Iterable[bytes]) -> None:
        """Send the body, or as much of it as the fault lets through."""
        if self.command == "HEAD":
            return
        after = self.fault.after
        for chunk in chunks:
            data = chunk if after in (None, WHOLE) else chunk[: after - self.visit.sent]
            self.wfile.write(data.translate(OTHER_BYTES) if self.fault.is_changed else data)
            self.visit.sent += len(data)
            if self.visit.sent == after:
                self._end()
                return

    def _end(self) -> None:
        """End the connection as the fault has it."""
        self.close_connection = True
        self.wfile.flush()
        if self.fault.ending == "silence":
            self.hub.closing.wait()
        if self.fault.ending == "reset":
            time.sleep(0.05)  # what was sent before arrives first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            self.rfile.close()  # the last one that holds the socket open
            self.connection.close()

    def _refuse(self, status: int, message: str, *, code: str | None = None, retry_after: str | None = None) -> None:
        optional = {"X-Error-Code": code, "Retry-After": retry_after}
        headers = {name: value for name, value in optional.items() if value is not None}
        self._send_head(status, {"X-Error-Message": message, "Content-Length": "0", **headers})

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    """Return what the listing says of one file: as on the Hub, large files carry their SHA-256."""
    size, digest = path.stat().st_size, sha256_of(path)
    lfs = {"sha256": digest, "oid": digest, "size": size, "pointerSize": 134}
    return {"rfilename": path.relative_to(folder).as_posix(), "size": size, "blobId": digest[:40], "lfs": lfs}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder in the Hub's layout on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="folder with datasets/, eval_bundle/ and words/")
    parser.add_argument("--port", type=int, default=8123)
    arguments = parser.parse_args()
    with HubServer(arguments.root.absolute(), arguments.port) as server:
        hf_home = Path(tempfile.gettempdir()) / "hub-server-client"
        exports = " ".join(f"{name}={value}" for name, value in server.environment(hf_home).items())
        print(f"Serving {arguments.root} at {server.endpoint}. In another terminal:\n")
        print(f"  export {exports}")
        print("  nanochat run demo --data hub \\")
        print(f"      --set task_data.core_bundle_url={server.core_bundle_url} \\")
        print(f"      --set task_data.words_url={server.words_url}\n", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
