"""The built-in text: what the docstrings of this Python installation say in plain English. No network, torch-free.

Docstrings are found with `ast` in the .py files of the standard library and of the installed packages, which are never
imported; the language reference that `help()` shows (pydoc_data) is read likewise. Markup, tables, doctests and
signatures are dropped, paragraphs of prose are kept, each paragraph once in the whole corpus, and joined to documents
of 200 to 4,000 characters.

Deterministic for a seed and an installation. This project's own packages are left out, so that editing them changes
nothing.
"""

import ast
import contextlib
import gc
import hashlib
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nanochat_core.errors import DataError

MIN_DOCUMENT_CHARACTERS = 200
MAX_DOCUMENT_CHARACTERS = 4000
MAX_PACKAGE_SHARE = 0.08  # of the corpus: no package's jargon dominates
MIN_QUOTED_SHARE = 0.3  # of a file's bytes between triple quotes: parsing sparse files would cost most of the time
MAX_FILE_BYTES = 1_000_000
MIN_WORDS, MIN_WORD_SHARE, MIN_COMMON_SHARE = 8, 0.8, 0.2
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "tests", "test", "testing", "_vendor"})
OWN_PACKAGES = frozenset({"flows", "nanochat_core", "tasks_eval", "deployments", "tests", "benchmarks"})
COMMONEST = (
    "the a an of to in is are be it this that these for and or not if with as on by from at can will when which was "
    "has have may should must you its all any each one than then other use used but no only"
)
COMMON_WORDS = frozenset(COMMONEST.split())

DROPPED_LINE = re.compile(
    r"\s*(>>>|\.\.\s|:\w+[^:]*:|@\w+|[-=~^*#+`|]{3,}|\|.*\||\w[\w, *]* ?: ?[\w\[\]{}(). ,'\"|=]{1,60}$)"
)
HEADING = re.compile(r"^[^\n]*\n[ \t]*[-=~^]{3,}[ \t]*$", re.MULTILINE)
ROLE = re.compile(r":[\w:]+:`~?([^`<]*?)(?: ?<[^>]*>)?`")
LINK = re.compile(r"`([^`<]+?) ?<[^>]*>`_+")
QUOTES = re.compile(r"(``|`|\*\*)([^`*]+)\1_*")
BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s")


@dataclass
class Corpus:
    """What has been collected so far."""

    target_characters: int
    documents: list[str] = field(default_factory=list)
    characters: int = 0
    by_package: Counter[str] = field(default_factory=Counter)
    seen: set[bytes] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        return self.characters >= self.target_characters

    def has_enough_of(self, package: str) -> bool:
        return self.by_package[package] >= MAX_PACKAGE_SHARE * self.target_characters

    def add(self, package: str, docstring: str) -> None:
        """Cut a docstring into documents and keep those that are long enough."""
        fresh = [paragraph for paragraph in prose_paragraphs(docstring) if self._is_new(paragraph)]
        for document in _joined(fresh):
            self.documents.append(document)
            self.characters += len(document)
            self.by_package[package] += len(document)

    def _is_new(self, paragraph: str) -> bool:
        key = hashlib.blake2b(paragraph.encode(errors="replace"), digest_size=8).digest()
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new


def collect(characters: int, seed: int, *, roots: list[Path] | None = None) -> Iterator[Corpus]:
    """Yield the growing corpus, after each file that added to it, until it holds `characters`.

    `roots` are folders of Python packages; by default the standard library and the installed packages. Raises DataError
    where all of them hold less than half of what was asked for.
    """
    corpus = Corpus(characters)
    for package, path in _files(roots or installed_roots(), seed):
        if corpus.has_enough_of(package):
            continue
        before = corpus.characters
        for docstring in docstrings(path):
            corpus.add(package, docstring)
        if corpus.characters > before:
            yield corpus
        if corpus.is_full:
            return
    if corpus.characters < characters // 2:
        raise DataError(
            f"The installed packages hold only {corpus.characters:,} characters of documentation, {characters:,} were "
            "asked for: set download.local_characters lower, or use the source path with text of your own."
        )


def installed_roots() -> list[Path]:
    """Return the folders of the standard library and of the installed packages."""
    places = sysconfig.get_paths()
    return [Path(folder) for folder in dict.fromkeys(places[name] for name in ("stdlib", "purelib", "platlib"))]


def docstrings(path: Path) -> list[str]:
    """Return the docstrings of a file's module, classes, methods and functions; none where it is mostly code."""
    try:
        source = path.read_bytes()
        if not _is_reference(path) and not _is_dense(source):
            return []
        with _garbage_collection_paused():
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # a template, a file for another Python version: this corpus does not need it
    if _is_reference(path):
        return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return list(_docstrings_below(tree))


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """A syntax tree is many new objects and no cycles: without passes over them parsing takes a third less time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _docstrings_below(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings_below(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(child)):
            yield text


def prose_paragraphs(docstring: str) -> list[str]:
    """Return the paragraphs that read as English, each on one line, without markup.

    >>> prose_paragraphs("Return the size of ``x``\\nas it is when the file is on\\nthe disk.\\n\\n>>> size(x)\\n3")
    ['Return the size of x as it is when the file is on the disk.']
    """
    paragraphs = []
    for block in re.split(r"\n\s*\n", docstring):
        lines = [line for line in HEADING.sub("", block).split("\n") if not DROPPED_LINE.match(line)]
        for item in _items(lines):
            text = _without_markup(item)
            if is_prose(text):
                paragraphs.append(text)
    return paragraphs


def _without_markup(text: str) -> str:
    if "`" in text or "**" in text:
        text = QUOTES.sub(r"\2", LINK.sub(r"\1", ROLE.sub(r"\1", text)))
    return " ".join(text.replace("::", ":").split())


def _items(lines: list[str]) -> Iterator[str]:
    """Yield a block's lines joined, cut before each bullet."""
    item: list[str] = []
    for line in lines:
        if BULLET.match(line) and item:
            yield " ".join(item)
            item = []
        item.append(BULLET.sub("", line, count=1))
    yield " ".join(item)


def is_prose(text: str) -> bool:
    """Whether a paragraph is mostly ordinary words, some of them the commonest, and ends as a sentence does."""
    words = text.split()
    if len(words) < MIN_WORDS or text[-1] not in ".:!?)" or not text.isascii():
        return False
    plain = [word.strip(".,;:()'\"!?") for word in words]
    alphabetic = sum(word.isalpha() or ("-" in word and word.replace("-", "").isalpha()) for word in plain)
    common = sum(word.lower() in COMMON_WORDS for word in plain)
    return alphabetic >= MIN_WORD_SHARE * len(words) and common >= MIN_COMMON_SHARE * len(words)


def _joined(paragraphs: list[str]) -> Iterator[str]:
    """Yield documents: paragraphs joined by blank lines, cut where too long, left out where too short."""
    documents = [""]
    for paragraph in paragraphs:
        if len(documents[-1]) + len(paragraph) + 2 > MAX_DOCUMENT_CHARACTERS:
            documents.append("")
        separator = "\n\n" if documents[-1] else ""
        documents[-1] += separator + paragraph[:MAX_DOCUMENT_CHARACTERS]
    return (document for document in documents if len(document) >= MIN_DOCUMENT_CHARACTERS)


def _files(roots: list[Path], seed: int) -> list[tuple[str, Path]]:
    """Return (package, file) of every source file, in an order that the seed and the names alone decide."""
    found = [(package, name, path) for root in roots for package, name, path in _python_files(root)]
    keyed = {name: (package, path) for package, name, path in reversed(found)}
    order = sorted(keyed, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())
    return [keyed[name] for name in order]


def _python_files(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (package, name relative to root, path); a module that lies in the root is a package of its own."""
    for folder, subfolders, files in os.walk(root):
        is_root = Path(folder) == root
        skipped = SKIPPED_FOLDERS | OWN_PACKAGES if is_root else SKIPPED_FOLDERS
        subfolders[:] = [name for name in subfolders if name not in skipped and not name.startswith(".")]
        for file in files:
            if file.endswith(".py"):
                name = os.path.relpath(os.path.join(folder, file), root)
                yield name.split(os.sep)[0], name.replace(os.sep, "/"), root / name


def _is_dense(source: bytes) -> bool:
    """Whether enough of a file stands between triple quotes."""
    quoted = sum(map(len, source.split(b'"""')[1::2]))
    return len(source) <= MAX_FILE_BYTES and quoted >= MIN_QUOTED_SHARE * len(source) > 0


def _is_reference(path: Path) -> bool:
    """Whether this is the file of the standard library with the text of `help("topics")`."""
    return path.name == "topics.py" and path.parent.name == "pydoc_data"
