"""A loopback server that serves a folder in the Hub's layout as the real `huggingface_hub` client expects it.

The folder holds datasets/<org>/<name>/…, eval_bundle/… and words/words_alpha.txt; `hub_miniature.py` makes a small one.
By hand:

    python tests/hub_server.py --root FOLDER --port 8123

prints the environment variables and the options with which `nanochat run demo --data hub` uses it. It offers plain HTTP
only (no Xet), knows one token, and answers 401 to any other.
"""

import argparse
import functools
import hashlib
import json
import re
import shutil
import tempfile
import threading
import zipfile
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

VALID_TOKEN = "hf_validTokenOfTheTestServer"
API = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class HubServer:
    """Serves `root` on 127.0.0.1 in a thread; a context manager.

    `failures[path]` is how many of the next requests of a URL path are answered with 503; `requests` counts all.
    """

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        self.failures: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._scratch = Path(tempfile.mkdtemp(prefix="hub-server-"))
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Request", (HubRequest,), {"hub": self}))
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

    def environment(self, hf_home: Path) -> dict[str, str]:
        """Return the variables that point the real client here, with a cache of its own."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(hf_home), "HF_HUB_DISABLE_XET": "1"}

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        shutil.rmtree(self._scratch, ignore_errors=True)

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

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests[path] += 1
        authorization = self.headers.get("Authorization")
        if self.hub.failures[path] > 0:
            self.hub.failures[path] -= 1
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "try again")
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
        if match := RANGE.fullmatch(self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or size - 1), size - 1)
            status = HTTPStatus.PARTIAL_CONTENT
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}
        length = end - start + 1
        self._send_head(status, {**headers, "Content-Length": str(length), "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        with open(path, "rb") as file:
            file.seek(start)
            while length > 0 and (chunk := file.read(min(length, 1 << 18))):
                self.wfile.write(chunk)
                length -= len(chunk)

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self._send_head(HTTPStatus.OK, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, message: str, *, code: str | None = None) -> None:
        headers = {"X-Error-Message": message, "Content-Length": "0"}
        self._send_head(status, headers | ({"X-Error-Code": code} if code else {}))

    def _send_head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
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
