import json
from pathlib import Path

import pytest

from nanochat_core.data import local_corpus
from nanochat_core.data.local_corpus import collect, docstrings, prose_paragraphs
from nanochat_core.errors import DataError

SENTENCE = "This function returns the number of the {} that are in the list when it is called with one argument."


def write_module(path: Path, *words: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    paragraphs = "\n\n".join(SENTENCE.format(word) for word in words)
    path.write_text(f'"""{paragraphs}"""\nraise SystemExit("imported!")\n')


def texts(characters: int, roots: list[Path], seed: int = 1) -> list[str]:
    corpus = None
    for corpus in collect(characters, seed, roots=roots):  # noqa: B007
        pass
    assert corpus is not None
    return corpus.documents


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for package in range(20):
        words = [f"{noun}s of kind {chr(97 + package)}" for noun in ("river", "garden", "letter", "window")]
        write_module(tmp_path / f"package_{package}" / "module.py", *words)
    return tmp_path


def test_documents_come_from_docstrings_without_importing_anything(packages: Path) -> None:
    found = texts(2000, [packages])
    assert all(SENTENCE.format("rivers of kind")[:40] in text for text in found)


def test_the_same_seed_gives_the_same_documents(packages: Path) -> None:
    assert texts(2000, [packages]) == texts(2000, [packages])
    assert texts(2000, [packages]) != texts(2000, [packages], seed=2)


def test_no_package_has_more_than_its_share(packages: Path) -> None:
    for index in range(30):
        write_module(
            packages / "large" / f"module_{index}.py", *(f"things in {chr(97 + index % 26)} {noun}" for noun in "abc")
        )
    for corpus in collect(6000, 1, roots=[packages]):  # noqa: B007
        pass
    assert corpus.by_package["large"] <= 0.08 * 6000 + 500


def test_our_own_packages_and_tests_are_left_out(packages: Path) -> None:
    before = texts(2000, [packages])
    for folder in ("flows", "nanochat_core", "tests", "package_1/tests"):
        write_module(packages / folder / "module.py", "secrets", "keys", "locks")
    assert texts(2000, [packages]) == before


def test_paragraphs_are_kept_once(tmp_path: Path) -> None:
    write_module(tmp_path / "a.py", "rivers", "gardens", "letters")
    write_module(tmp_path / "b.py", "rivers", "gardens", "windows", "doors", "roads")
    joined = "\n\n".join(texts(700, [tmp_path]))
    assert joined.count("rivers") == joined.count("gardens") == 1


def test_files_that_do_not_parse_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "template.py").write_text('"""{{ a template }}"""\ndef {{ name }}():')
    assert docstrings(tmp_path / "template.py") == []


def test_too_little_text_is_refused_with_what_to_set(tmp_path: Path) -> None:
    write_module(tmp_path / "a.py", "rivers", "gardens", "letters")
    with pytest.raises(DataError, match=r"set download\.local_characters lower"):
        texts(1_000_000, [tmp_path])


@pytest.mark.parametrize(
    "noise",
    [
        ">>> compute(x)\n3",
        "x : int\n    ",
        "====  =====\nname  value\n====  =====",
        ".. versionadded:: 3.4",
        ":param x: the number",
        "dtype=torch.float32, layout=torch.strided, device=None, requires_grad=False, pin_memory=False, out=None",
    ],
)
def test_markup_tables_and_doctests_are_dropped(noise: str) -> None:
    sentence = SENTENCE.format("rivers")
    assert prose_paragraphs(f"{sentence}\n\n{noise}\n\n{SENTENCE.format('gardens')}") == [
        sentence,
        SENTENCE.format("gardens"),
    ]


def test_markup_within_a_sentence_leaves_its_words() -> None:
    text = "Return the :class:`~os.Path` of the ``file`` and the `manual <https://x>`_ that is **on** it -- or not."
    assert prose_paragraphs(text) == ["Return the os.Path of the file and the manual that is on it -- or not."]


@pytest.mark.slow
def test_this_installation_gives_eight_million_characters_and_the_same_ones_again() -> None:
    found = texts(8_000_000, local_corpus.installed_roots(), seed=42)
    assert sum(map(len, found)) >= 8_000_000
    assert all(200 <= len(text) <= 4000 for text in found)
    assert json.dumps(found) == json.dumps(texts(8_000_000, local_corpus.installed_roots(), seed=42))
