"""Identity: who the model is, what it declines, and what not, from the user's persona (`task_data.persona_path`) or, of
those who have none, from the one that comes with the package.

Its three kinds are the task's parts: accuracy of `identity` is the identity accuracy, of `decline` the decline rate,
and of `harmless` the share of harmless questions that are answered: 1 less the false-decline rate (`scores.RATES`). No
network, no chance: the same persona gives the same conversations. Of every kind, testing has phrasings that training
has not (`identity_phrasings.py`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from nanochat_core.data.own.persona import BUILT_IN, DATASET, Exchange, Persona, Topic, read_persona
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.persona_grading import declines, holds, marks_of
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.identity_phrasings import FRAMES_HELD_OUT, HELD_OUT, LANGUAGES, Phrasings

VERSION = 1
FOLLOWS_EVERY = 4  # every so many-th training conversation begins with another one
OWN_HELD_OUT = 3  # of so many phrasings of the user's own, or more, the last is for testing

Kind = Literal["identity", "decline", "harmless"]
T = TypeVar("T")


class Asked(NamedTuple):
    """A question, its answer, and what the grader looks for."""

    kind: Kind
    question: str
    answer: str
    must: tuple[str, ...] = ()


def make(data: TaskData, split: Split) -> Task:
    """Raises DataError for a bad persona, or one of which two answers cannot be told apart."""
    (path,) = data.files(DATASET, "persona") if DATASET in data.datasets else (BUILT_IN,)
    persona = read_persona(path)
    asked = in_order(list(all_asked(persona, split)))
    marks = marks_of([answer for topic in persona.declines for answer in decline_answers(persona, topic)])
    check(asked, marks)

    def example(index: int) -> Conversation:
        turns = [asked[index]]
        if split == "train" and index % FOLLOWS_EVERY == FOLLOWS_EVERY - 1:
            turns.insert(0, asked[index - 1])
        messages = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in (("user", turn.question), ("assistant", turn.answer))
        ]
        last = turns[-1]
        meta = {"kind": last.kind, "must": list(last.must), "marks": marks, "answer": last.answer}
        return {"messages": messages, **meta}

    return Task(
        "Identity", "generative", split, len(asked), example, grading="persona", version=VERSION, group_field="kind"
    )


def in_order(asked: list[Asked]) -> list[Asked]:
    """Return each question once, in an order that has nothing to do with its kind: that of a hash."""
    once = {one.question: one for one in reversed(asked)}  # the first of equal ones
    return sorted(once.values(), key=lambda one: hashlib.sha256(one.question.encode()).digest())


def check(asked: list[Asked], marks: list[str]) -> None:
    """Raise DataError where a reference answer would be judged wrong: the persona contradicts itself."""
    for one in asked:
        if one.kind != "decline" and declines(one.answer, marks):
            raise DataError(
                f"The persona's answer {one.answer!r} to {one.question!r} reads like one that declines: say it in "
                "other words, or decline in other words."
            )
        if missing := [words for words in one.must if not holds(one.answer, words)]:
            raise DataError(f"The persona's answer {one.answer!r} does not say {', '.join(missing)}: mend its key.")


def all_asked(persona: Persona, split: Split) -> Iterator[Asked]:
    """Yield all questions of a split with their answers; the same question may come twice."""
    for language in languages_of(persona):
        words = LANGUAGES[language]
        for one in _built_in(persona, words, split):
            yield from framed(one, words, split)
        for one in [Asked("harmless", *pair) for pair in held_out(words.harmless, split, HELD_OUT)]:
            yield from framed(one, words, split)
    for fact in persona.exchanges:
        yield from _own(persona, "identity", fact, split)
    for topic in persona.declines:
        yield from _declined(persona, topic, split)
        for near in topic.allowed:
            yield from _own(persona, "harmless", near, split)


def languages_of(persona: Persona) -> list[str]:
    """Return the persona's languages that have phrasings here; English where none has."""
    return [language for language in persona.languages if language in LANGUAGES] or ["English"]


def phrasings_for(persona: Persona, language: str | None) -> Phrasings:
    """Return the phrasings around a text of the user's own, which is in `language` or the persona's first."""
    wanted = language or persona.languages[0]
    return LANGUAGES.get(wanted, LANGUAGES[languages_of(persona)[0]])


def _built_in(persona: Persona, words: Phrasings, split: Split) -> Iterator[Asked]:
    """Yield the questions after name, maker, languages and others, unframed."""
    names = [words.languages.get(language, language) for language in persona.languages]
    spoken = f" {words.conjunction} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    told = {"name": persona.name, "maker": persona.maker, "languages": spoken}
    statements = " ".join(["", *persona.statements]) if words is phrasings_for(persona, None) else ""
    kinds = (
        (words.name, words.name_answers, "", (persona.name,)),
        (words.maker, words.maker_answers, "", (persona.maker,)),
        (words.about, words.about_answers, statements, (persona.name, persona.maker)),
        (words.speaks, words.speaks_answers, "", tuple(names)),
        (words.others, words.others_answers, "", (persona.name,)),
    )
    for questions, answers, more, must in kinds:
        for question in held_out(questions, split, HELD_OUT):
            if not holds(question, persona.name):  # who is called Siri is not asked whether it is
                yield Asked("identity", question, _chosen(answers, question).format(**told) + more, must)


def _own(persona: Persona, kind: Kind, exchange: Exchange, split: Split) -> Iterator[Asked]:
    must = (exchange.key or exchange.answer,) if kind == "identity" else ()
    words = phrasings_for(persona, exchange.language)
    for question in own_phrasings(exchange.question, split):
        is_new = len(exchange.question) >= OWN_HELD_OUT
        yield from framed(Asked(kind, question, exchange.answer, must), words, split, is_new=is_new)


def _declined(persona: Persona, topic: Topic, split: Split) -> Iterator[Asked]:
    words, answers = phrasings_for(persona, topic.language), decline_answers(persona, topic)
    for template in held_out(words.asks, split, HELD_OUT):
        question = template.format(topic=topic.topic)
        yield from framed(Asked("decline", question, _chosen(answers, question)), words, split)
    for question in own_phrasings(topic.questions, split):
        is_new = len(topic.questions) >= OWN_HELD_OUT
        yield from framed(Asked("decline", question, _chosen(answers, question)), words, split, is_new=is_new)


def decline_answers(persona: Persona, topic: Topic) -> list[str]:
    """Return how a topic is declined: as the user says it, or in sentences of ours."""
    if topic.answer:
        return [topic.answer]
    return [answer.format(topic=topic.topic) for answer in phrasings_for(persona, topic.language).declined]


def framed(one: Asked, words: Phrasings, split: Split, *, is_new: bool = True) -> Iterator[Asked]:
    """Yield a question in the frames of its split, and in training as people type it in haste, too.

    A question that was held out, `is_new`, stands by itself as well where it is tested.
    """
    frames = held_out(words.frames, split, FRAMES_HELD_OUT)
    if split == "test" and is_new:
        frames = ("{}", *frames)
    for frame in frames:
        yield one._replace(question=frame.format(one.question))
    if split == "train":
        yield one._replace(question=one.question.lower().strip("¿?!. "))


def held_out(items: Sequence[T], split: Split, count: int) -> Sequence[T]:
    """Return the part of a list that is for a split: the last `count` for testing.

    >>> held_out("abcde", "train", 2), held_out("abcde", "test", 2)
    ('abc', 'de')
    """
    return items[-count:] if split == "test" else items[:-count]


def own_phrasings(questions: Sequence[str], split: Split) -> Sequence[str]:
    """Return the user's phrasings for a split: of three or more the last is held out, of fewer none, but for frames.

    >>> own_phrasings(["a", "b", "c"], "test"), own_phrasings(["a", "b"], "train"), own_phrasings(["a"], "test")
    (['c'], ['a', 'b'], ['a'])
    """
    return held_out(questions, split, 1) if len(questions) >= OWN_HELD_OUT else questions


def _chosen(answers: Sequence[str], question: str) -> str:
    """Return one of the answers, always the same to a question."""
    return answers[hashlib.sha256(question.encode()).digest()[0] % len(answers)]
