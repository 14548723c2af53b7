"""The user's own documents for mixtures: documentation, code, notes, learned whole beside conversations. Torch-free.

They are read as the text of pretraining is (`text_files.py`), cut where they are long, and kept once; a file or folder
that has no document, or one that cannot be read, ends the stage.
"""

from collections.abc import Iterator
from pathlib import Path

from nanochat_core.data.own.bad_lines import BadLines
from nanochat_core.data.own.text_files import find_text_files, read_texts
from nanochat_core.data.shards import write_shard
from nanochat_core.errors import DataError

DATASET = "documents"
FILE = f"data/{DATASET}/all.parquet"
MAX_CHARACTERS = 6_000  # of a piece: about 1,500 tokens, so that it fits a row of 2,048


def copy_documents(place: Path, folder: Path) -> dict[str, list[str]]:
    """Write the documents at `place` to a shard in `folder`; return {"all": [the shard, relative to `folder`]}.

    Raises DataError that names what cannot be read, or where there are fewer than two different pieces.
    """
    bad = BadLines()
    files = find_text_files(place)
    texts = (text for path in files for _, text in read_texts(path, bad))
    pieces = list(dict.fromkeys(piece for text in texts for piece in pieces_of(text) if piece.strip()))
    if bad.count:
        raise DataError(f"{bad.count:,} bad lines below {place}: {'; '.join(bad.first)}{bad.more}. Mend them.")
    if len(pieces) < 2:
        raise DataError(
            f"{place} holds {len(pieces)} different documents: at least 2 are needed, to train on and to test."
        )
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    write_shard(folder / FILE, pieces)
    return {"all": [FILE]}


def pieces_of(text: str, longest: int = MAX_CHARACTERS) -> Iterator[str]:
    """Yield a document in pieces of at most `longest` characters, cut at a blank line, a line or a blank, if it can be.

    >>> list(pieces_of("one two\\n\\nthree four", 12)), "".join(pieces_of("one two\\n\\nthree four", 12))
    (['one two\\n\\n', 'three four'], 'one two\\n\\nthree four')
    """
    while len(text) > longest:
        cuts = (text.rfind(mark, longest // 2, longest) + len(mark) for mark in ("\n\n", "\n", " "))
        cut = next((cut for cut in cuts if cut > longest // 2), longest)
        yield text[:cut]
        text = text[cut:]
    yield text
