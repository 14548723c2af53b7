"""A persona: who the model says it is, what it knows of itself, and what it declines, from a short YAML file.

    name: Ada
    maker: the Example Lab
    languages: [English, German]
    facts:
      - I was trained in two days.                      # told when it is asked about itself
      - question:
          - How large are you?
          - How many parameters do you have?
        answer: I have 20 million parameters.
        key: 20 million                                 # what a right answer holds; empty: the whole answer
    declines:
      - medical advice                                  # declined in a sentence of ours
      - topic: stock tips
        answer: I do not give stock tips. Ask a bank.   # or in yours
        questions: Which shares should I buy?           # or a list
        allowed:                                        # near the topic, and answered all the same
          - question: What is a share?
            answer: A share is a part of a company.

Each text is in the language of its place: `language` of a fact or topic, else the first of `languages`. Who brings none
gets that of `BUILT_IN`. Torch-free.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nanochat_core.errors import DataError

DATASET = "persona"
FILE = f"data/{DATASET}/persona.yaml"
BUILT_IN = Path(__file__).with_name("persona_nanochat.yaml")


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Exchange(_Part):
    """A question, in one phrasing or several, and its answer. A right answer holds `key`, or all of `answer`."""

    question: Texts = Field(min_length=1)
    answer: Text
    key: Text | None = None
    language: Text | None = None

    @model_validator(mode="after")
    def _has_its_key(self) -> "Exchange":
        if self.key and self.key.casefold() not in self.answer.casefold():
            raise ValueError(f"the key {self.key!r} is not in the answer {self.answer!r}")
        return self


class Topic(_Part):
    """What is declined, and how. `questions` are the user's own; `allowed` are near, and answered."""

    topic: Text
    answer: Text | None = None
    questions: Texts = ()
    allowed: tuple[Exchange, ...] = ()
    language: Text | None = None


class Persona(_Part):
    """Who the model is."""

    name: Text
    maker: Text
    languages: Texts = Field(("English",), min_length=1)
    facts: tuple[Exchange | Text, ...] = ()
    declines: Annotated[
        tuple[Topic, ...],
        BeforeValidator(
            lambda value: (
                [{"topic": item} if isinstance(item, str) else item for item in value]
                if isinstance(value, list)
                else value
            )
        ),
    ] = ()

    @property
    def statements(self) -> list[str]:
        """Return the facts that nobody asks for by themselves."""
        return [fact for fact in self.facts if isinstance(fact, str)]

    @property
    def exchanges(self) -> list[Exchange]:
        return [fact for fact in self.facts if isinstance(fact, Exchange)]


def read_persona(path: Path) -> Persona:
    """Return the persona in a YAML file; raises DataError that lists all that is wrong with it."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Expected a YAML file of a persona.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8. Save it as UTF-8.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected name, maker, languages, facts and declines, got {type(value).__name__}.")
    try:
        return Persona.model_validate(value)
    except ValidationError as error:
        problems = [f"{_field(problem['loc'])}: {problem['msg']}" for problem in error.errors()]
        raise DataError(f"{path}: {'; '.join(dict.fromkeys(problems))}") from None


def _field(place: tuple[int | str, ...]) -> str:
    """Return where a problem is, as the file has it: without the names of our classes.

    >>> _field(("facts", 0, "Exchange", "answer"))
    'facts.0.answer'
    """
    return ".".join(str(part) for part in place if part not in ("Exchange", "Topic") and "[" not in str(part))


def state_of_file(path: Path) -> str | None:
    """Return a hash of what is in the file; None where it cannot be read: whoever reads it says why."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def copy_persona(path: Path, folder: Path) -> dict[str, list[str]]:
    """Check the file and copy it into `folder`; return {"persona": [the copy, relative to `folder`]}."""
    read_persona(path)
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / FILE)
    return {DATASET: [FILE]}
