"""How text is cut into pieces before any merge: the GPT-4 rule, with digits in groups of one or two. Torch-free.

One rule in three spellings, because regex engines differ in what they offer and in what they are fast at:

- `SPLIT_PATTERN` is the rule, and what tokenizer.json says.
- `UNPOSSESSIVE_PATTERN` is for engines without possessive quantifiers. The pieces are the same, since what follows
  such a quantifier here never matches what it has taken.
- `PLAIN_PATTERN` needs no lookahead either, so that an automaton can run it (Rust's regex: two to three times faster).
  It is exact on text that went through `cut_blank_runs`.
"""

import re

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
UNPOSSESSIVE_PATTERN = SPLIT_PATTERN.replace("?+", "?").replace("++", "+")
PLAIN_PATTERN = UNPOSSESSIVE_PATTERN.replace(r"|\s+(?!\S)", "")

# Unicode's White_Space without CR and LF. (Python's \s would add U+001C to U+001F, which the rule takes for symbols.)
BLANKS = "\t\v\f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
BEFORE_LAST_BLANK = re.compile(rf"(?<=[{BLANKS}])(?=[{BLANKS}][^{BLANKS}\r\n])")
RARE_BLANK = re.compile(rf"[{BLANKS.replace(' ', '')}]")


def cut_blank_runs(text: str) -> list[str]:
    r"""Return `text` in pieces, cut where the rule's lookahead cuts: before the last of several blanks ahead of a word.

    Line ends need no cut: the rule ends a piece after the last of them.

    >>> cut_blank_runs("def f():\n    return 1")
    ['def f():\n   ', ' return 1']
    """
    return BEFORE_LAST_BLANK.split(text) if _may_have_blank_runs(text) else [text]


def _may_have_blank_runs(text: str) -> bool:
    """Tell it quickly: most texts have nothing but single spaces and line ends between words."""
    if "  " in text:
        return True
    if text.isascii():  # looking for a character is ten times faster than a regular expression
        return "\t" in text or "\v" in text or "\f" in text
    return RARE_BLANK.search(text) is not None
