"""Runs of n words, as numbers: which of a large set of them occur in a text, at some 40 MB of text a second and core.

A word is a run of letters and digits, whatever stands between; case counts for nothing in ASCII. Each word is a
polynomial of its bytes and each run of words a polynomial of its words, both modulo 2^64 and then mixed (Rabin and Karp
1987): differences of one running sum give them all at once. Of ten thousand million runs looked up among ten million
about one in two hundred searches meets a false one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

BORDER = "\x01"  # between texts, a word of its own that is in no run looked for
BLOCK_BYTES = 1 << 18  # of text at a time: its arrays fit into a core's cache
FILTER_BITS_PER_HASH = 16
BYTE_BASE, WORD_BASE = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F  # odd, so that they have inverses modulo 2^64
MODULUS = 1 << 64


@dataclass(frozen=True)
class Words:
    """The words of a text: their hashes, and the bytes where each starts and ends; `sums` are what runs come from."""

    hashes: Hashes
    starts: Places
    ends: Places
    sums: Hashes

    def __len__(self) -> int:
        return len(self.hashes)

    def runs(self, length: int, places: Places | None = None) -> Hashes:
        """Return the hash of each run of `length` words, or of those that begin at `places`, which must fit."""
        if places is None:
            count = max(0, len(self) - length + 1)
            raw = (self.sums[length : length + count] - self.sums[:count]) * _inverse_powers(WORD_BASE, len(self))[
                :count
            ]
        else:
            raw = (self.sums[places + length] - self.sums[places]) * _inverse_powers(WORD_BASE, len(self))[places]
        return _mixed(raw + np.uint64(length))


def words_of(text: bytes) -> Words:
    """Return the words of UTF-8 text.

    >>> [text[a:b] for text in [b"Don't stop, Ann!"] for a, b in zip(words_of(text).starts, words_of(text).ends)]
    [b'Don', b't', b'stop', b'Ann']
    """
    buffer = np.frombuffer(text, np.uint8)
    codes = np.take(_codes(), buffer)
    _cut_at_punctuation(buffer, codes)
    edges = np.flatnonzero(np.diff(codes != 0, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    sums = _sums(codes, BYTE_BASE)
    hashes = _mixed((sums[ends] - sums[starts]) * _inverse_powers(BYTE_BASE, len(buffer))[starts])
    return Words(hashes, starts, ends, _sums(hashes, WORD_BASE))


@cache
def _codes() -> Hashes:
    """Return the number of each byte in a word, the same for both cases; 0 for what stands between words."""
    codes = np.random.default_rng(20_250_101).integers(1, MODULUS, 256, np.uint64)
    between = [byte for byte in range(128) if not chr(byte).isalnum() and chr(byte) != BORDER]
    codes[between] = 0
    codes[ord("A") : ord("Z") + 1] = codes[ord("a") : ord("z") + 1]
    return codes


def _cut_at_punctuation(buffer: Bytes, codes: Hashes) -> None:
    """Set the codes of punctuation beyond ASCII to 0: that of Latin-1, the general block, and that of East Asia."""
    for lead, seconds, length in ((0xC2, None, 2), (0xE2, (0x80, 0x81), 3), (0xE3, (0x80,), 3)):
        places = np.flatnonzero(buffer == lead)
        places = places[places <= len(buffer) - length]
        if seconds is not None:
            places = places[np.isin(buffer[places + 1], seconds)]
        for offset in range(length):
            codes[places + offset] = 0


def _sums(values: Hashes, base: int) -> Hashes:
    """Return the running sums of values[i] * base^i, modulo 2^64, from 0 on: one more than there are values."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(base, len(values)), out=sums[1:])
    return sums


def _powers(base: int, count: int) -> Hashes:
    return _many_powers(base, 1 << max(16, count.bit_length()))[:count]


def _inverse_powers(base: int, count: int) -> Hashes:
    return _powers(pow(base, -1, MODULUS), count)


@cache
def _many_powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _mixed(values: Hashes) -> Hashes:
    """Return values whose every bit depends on all bits of the given ones (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


class HashSet:
    """A set of hashes, each with its number. Two tables of bits turn away nearly all that is not in it."""

    def __init__(self, hashes: Hashes) -> None:
        """`hashes` are sorted and different; number i is hashes[i]."""
        self._hashes = hashes
        bits = max(16, (len(hashes) * FILTER_BITS_PER_HASH).bit_length())
        self._shift, self._low = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
        self._filters = [_bit_table(keys, bits) for keys in (hashes >> self._shift, hashes & self._low)]

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: Hashes) -> tuple[Places, Places]:
        """Return the places in `hashes` of those that are in the set, and their numbers in it."""
        places = _set_bits(self._filters[0], hashes >> self._shift)
        places = places[_set_bits(self._filters[1], hashes[places] & self._low)]
        numbers = np.searchsorted(self._hashes, hashes[places])
        is_in = np.take(self._hashes, numbers, mode="clip") == hashes[places] if len(self) else numbers < 0
        return places[is_in], numbers[is_in]


def _bit_table(keys: Hashes, bits: int) -> Bytes:
    """Return a table of 2^bits bits, those of `keys` set."""
    marked = np.zeros(1 << bits, np.bool_)
    marked[keys] = True
    return np.packbits(marked, bitorder="little")


def _set_bits(table: Bytes, keys: Hashes) -> Places:
    """Return the places of the keys whose bit is set."""
    signed = keys.view(np.int64)  # numpy would copy unsigned indices
    bits = table[signed >> 3] >> (signed & 7).astype(np.uint8)
    return np.flatnonzero(bits & 1)


def blocks(texts: Iterable[str]) -> Iterator[bytes]:
    """Yield the texts in pieces of about BLOCK_BYTES, whole ones with a border after each."""
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        waiting.append(text.encode(errors="surrogatepass"))
        size += len(waiting[-1])
        if size >= BLOCK_BYTES:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(texts: Sequence[bytes]) -> bytes:
    border = f" {BORDER} ".encode()
    return border.join(texts) + border
