"""How people ask for the letters of a word: phrasings in several languages, and how each writes quotes and ends.

The words are those of the word list whatever the language, and answers look the same: what varies is the question.
"""

import random
from dataclasses import dataclass

ENGLISH_SHARE = 0.5  # of the questions; the other languages share the rest evenly
LOWER_SHARE = 0.3  # of the questions are typed without capitals
ASCII_QUOTES = (("'", "'"), ('"', '"'))
BARE = ("", "")


@dataclass(frozen=True)
class Phrasings:
    """What is asked in one language.

    `spelling` has the place {word}, `counting` {word} and {letter}. `quotes` are around words and letters, `frames`
    around the question; what stands twice is drawn twice as often. `plurals` may follow a letter that is counted.
    """

    spelling: tuple[str, ...]
    counting: tuple[str, ...]
    quotes: tuple[tuple[str, str], ...]
    frames: tuple[tuple[str, str], ...]
    plurals: tuple[str, ...] = ("",)


PHRASINGS: dict[str, Phrasings] = {
    "English": Phrasings(
        spelling=(
            "Spell the word: {word}",
            "Spell {word}",
            "Please spell {word}",
            "How do you spell {word}",
            "Can you spell the word {word}",
            "What are the letters of {word}",
            "Spell out {word}, letter by letter",
        ),
        counting=(
            "How many {letter} are in {word}",
            "How many {letter} are there in {word}",
            "How many {letter} does {word} have",
            "How many {letter} can you find in the word {word}",
            "How often does {letter} occur in {word}",
            "How many times does {letter} appear in {word}",
            "Count the {letter} in {word}",
            "Count how often {letter} is in the word {word}",
            "Tell me the number of {letter} in {word}",
            "What is the number of {letter} in {word}",
            "In {word}, how many {letter} are there",
            "Look at {word} and count the letter {letter}",
        ),
        quotes=(BARE, *ASCII_QUOTES),
        frames=(BARE, ("", "?"), ("", "?"), ("", ".")),
        plurals=("", "s"),
    ),
    "German": Phrasings(
        spelling=(
            "Buchstabiere {word}",
            "Wie schreibt man {word}",
            "Wie buchstabiert man das Wort {word}",
            "Aus welchen Buchstaben besteht {word}",
        ),
        counting=(
            "Wie viele {letter} sind in {word}",
            "Wie oft kommt {letter} in {word} vor",
            "Wie oft steht {letter} im Wort {word}",
            "Zähle die {letter} in {word}",
        ),
        quotes=(BARE, *ASCII_QUOTES, ("„", "“")),
        frames=(BARE, ("", "?"), ("", "?"), ("", ".")),
    ),
    "French": Phrasings(
        spelling=(
            "Épelle {word}",
            "Comment s'écrit {word}",
            "Comment épelle-t-on le mot {word}",
            "Quelles sont les lettres de {word}",
        ),
        counting=(
            "Combien de {letter} y a-t-il dans {word}",
            "Combien de fois {letter} apparaît-il dans {word}",
            "Combien le mot {word} a-t-il de {letter}",
            "Compte les {letter} dans {word}",
        ),
        quotes=(BARE, *ASCII_QUOTES, ("« ", " »")),
        frames=(BARE, ("", " ?"), ("", "?"), ("", ".")),
    ),
    "Spanish": Phrasings(
        spelling=(
            "Cómo se deletrea {word}",
            "Cómo se escribe {word}",
            "Qué letras tiene la palabra {word}",
            "Puedes deletrear {word}",
        ),
        counting=(
            "Cuántas {letter} hay en {word}",
            "Cuántas veces aparece {letter} en {word}",
            "Cuántas {letter} tiene la palabra {word}",
            "Puedes contar las {letter} de {word}",
        ),
        quotes=(BARE, *ASCII_QUOTES, ("«", "»")),
        frames=(BARE, ("", "?"), ("¿", "?"), ("¿", "?")),
    ),
    "Italian": Phrasings(
        spelling=(
            "Come si scrive {word}",
            "Fai lo spelling di {word}",
            "Quali sono le lettere di {word}",
            "Scrivi {word} lettera per lettera",
        ),
        counting=(
            "Quante {letter} ci sono in {word}",
            "Quante volte compare {letter} in {word}",
            "Quante {letter} ha la parola {word}",
            "Conta le {letter} in {word}",
        ),
        quotes=(BARE, *ASCII_QUOTES, ("«", "»")),
        frames=(BARE, ("", "?"), ("", "?"), ("", ".")),
    ),
    "Portuguese": Phrasings(
        spelling=(
            "Soletre {word}",
            "Como se soletra {word}",
            "Como se escreve a palavra {word}",
            "Quais são as letras de {word}",
        ),
        counting=(
            "Quantas letras {letter} há em {word}",
            "Quantas vezes {letter} aparece em {word}",
            "Quantas letras {letter} tem a palavra {word}",
            "Conte as letras {letter} em {word}",
        ),
        quotes=(BARE, *ASCII_QUOTES),
        frames=(BARE, ("", "?"), ("", "?"), ("", ".")),
    ),
    "Dutch": Phrasings(
        spelling=(
            "Spel het woord {word}",
            "Hoe spel je {word}",
            "Hoe schrijf je het woord {word}",
            "Uit welke letters bestaat {word}",
        ),
        counting=(
            "Hoe vaak komt {letter} voor in {word}",
            "Hoe vaak staat {letter} in het woord {word}",
            "Hoeveel keer zie je {letter} in {word}",
            "Tel de letter {letter} in {word}",
        ),
        quotes=(BARE, *ASCII_QUOTES),
        frames=(BARE, ("", "?"), ("", "?"), ("", ".")),
    ),
    "Chinese": Phrasings(
        spelling=("请拼写{word}", "{word}怎么拼写", "单词{word}由哪些字母组成", "请逐个字母写出{word}"),
        counting=(
            "{word}里有几个{letter}",
            "{word}中有多少个{letter}",
            "单词{word}中{letter}出现了几次",
            "请数一数{word}里的{letter}",
        ),
        quotes=(*ASCII_QUOTES, ("“", "”"), (" ", " ")),  # never bare: a split rule takes letters of both scripts as one
        frames=(BARE, ("", "？"), ("", "?"), ("", "。")),
    ),
    "Japanese": Phrasings(
        spelling=(
            "{word}のつづりを教えてください",
            "{word}はどうつづりますか",
            "単語{word}の文字を順に書いてください",
            "{word}を一文字ずつ書いてください",
        ),
        counting=(
            "{word}に{letter}はいくつありますか",
            "{word}の中に{letter}は何個ありますか",
            "単語{word}に{letter}は何回出てきますか",
            "{word}の{letter}を数えてください",
        ),
        quotes=(*ASCII_QUOTES, ("「", "」"), (" ", " ")),
        frames=(BARE, ("", "？"), ("", "。")),
    ),
}
OTHERS = tuple(name for name in PHRASINGS if name != "English")


def draw_language(rng: random.Random) -> str:
    """Return the language of a question: English in half of the cases."""
    return "English" if rng.random() < ENGLISH_SHARE else rng.choice(OTHERS)


def spelling_question(word: str, language: str, rng: random.Random) -> str:
    """Return a random question for the letters of `word`."""
    phrasings = PHRASINGS[language]
    question = _cased(rng.choice(phrasings.spelling), rng).format(word=_quoted(word, phrasings, rng))
    return _framed(question, phrasings, rng)


def counting_question(word: str, letter: str, language: str, rng: random.Random) -> str:
    """Return a random question how often `letter` is in `word`."""
    phrasings = PHRASINGS[language]
    asking = _cased(rng.choice(phrasings.counting), rng)
    asked = _quoted(letter, phrasings, rng)
    asked += "" if asked.endswith(" ") else rng.choice(phrasings.plurals)
    return _framed(asking.format(letter=asked, word=_quoted(word, phrasings, rng)), phrasings, rng)


def _cased(asking: str, rng: random.Random) -> str:
    return asking.lower() if rng.random() < LOWER_SHARE else asking


def _quoted(text: str, phrasings: Phrasings, rng: random.Random) -> str:
    before, after = rng.choice(phrasings.quotes)
    return f"{before}{text}{after}"


def _framed(question: str, phrasings: Phrasings, rng: random.Random) -> str:
    """Return the question between what its language puts around it, without blanks at its ends."""
    before, after = rng.choice(phrasings.frames)
    return f"{before}{question.strip()}{after}".strip()
