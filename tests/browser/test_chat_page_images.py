"""Pictures of the chat page. $NANOCHAT_IMAGES names a folder that keeps them; those in docs/images were made so.

The answers are told to the server; its tokenizer is trained on our own documentation, and the probabilities are made
up, likelier than not.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from nanochat_core.inference.requests import ScoredToken
from nanochat_core.tokenizer.bpe import Tokenizer
from tests import fake_engine
from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import ChatServer, chat_server
from tests.browser.chromium import take_picture, visitor
from tests.browser.conftest import OWN_HOST
from tests.browser.test_chat_page_access import LOOKS
from tests.test_architecture import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MAX_BYTES = 150_000
COLORS = 256
VOCABULARY = 2048
TOKENS_PER_SECOND = 60.0
SKY = """Sunlight holds every colour. In the air it meets molecules that are far smaller than its wavelength, and \
they scatter **short waves much more than long ones**.

- Blue light (450 nm) is scattered about four times as much as red (650 nm).
- So blue reaches your eye from everywhere, and red mostly straight from the sun.
- At sunset the way is longer: the blue is lost before the light arrives.

The strength goes with `1 / wavelength**4`, which is called *Rayleigh scattering*."""
CODE = """It walks the text once and keeps a counter for each letter:

```python
from collections import Counter


def most_common_letters(text: str, count: int = 3) -> list[tuple[str, int]]:
    \"\"\"Return the letters that occur most often.\"\"\"
    letters = (letter for letter in text.lower() if letter.isalpha())
    return Counter(letters).most_common(count)


print(most_common_letters("Why is the sky blue?"))  # [('s', 2), ('y', 2), ('e', 2)]
```

Letters that occur equally often come in the order in which they were first seen.

| text | result |
|---|---:|
| `banana` | a 3, n 2, b 1 |
| `strawberry` | r 3, s 1, t 1 |
"""
SUM: list[Any] = [
    {"type": "text", "text": "12 times 7 is "},
    {"type": "python", "text": "12*7"},
    {"type": "python_output", "text": "84"},
    {"type": "text", "text": "84."},
]
ANSWERS: dict[str, Any] = {
    "12*7?": SUM,
    "sky blue?": SKY,
    "of a text?": CODE,
    "": "Of course. What shall it be about?",
}


def plausible(context: Sequence[int], token: int, vocab_size: int, alternatives: int) -> ScoredToken:
    """Return the token as a model would score it that mostly knows what to say; in the place of `scored_token`."""
    random = np.random.default_rng([*context[-3:], token])
    chosen = random.beta(1.6, 0.45)
    shares = np.append(chosen, (1 - chosen) * 0.5 ** np.arange(1, alternatives))
    ids = [token, *random.integers(260, vocab_size // 2, alternatives - 1).tolist()]
    top = sorted(zip(ids, np.log(shares).tolist(), strict=True), key=lambda pair: -pair[1])
    return ScoredToken(token, float(np.log(chosen)), tuple(top))


@pytest.fixture(scope="module")
def word_server() -> Iterator[ChatServer]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/**/*.md"))]
    with chat_server(tokenizer=Tokenizer.train([*texts, SKY, CODE], VOCABULARY)) as server:
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return Path(os.environ.get("NANOCHAT_IMAGES") or tmp_path)


def take(page: Page, images: Path, name: str) -> None:
    """Keep a picture of the page at rest."""
    page.mouse.move(640, 4)
    expect(page.locator(".toast")).to_have_count(0)
    path = take_picture(page, images / f"chat-{name}.png", colors=COLORS)
    assert 5_000 < path.stat().st_size < MAX_BYTES


def talk(page: Page, server: ChatServer, *questions: str, earlier: Sequence[str] = ()) -> ChatPage:
    """Return the page after a conversation, with earlier ones in its list."""
    chat = ChatPage(page, server.url).open()
    server.answers = ANSWERS
    server.engine.clock.run()
    for question in earlier:
        chat.type("/clear")
        chat.ask(question)
    chat.type("/clear")
    server.engine.clock.run(TOKENS_PER_SECOND)
    for question in questions:
        chat.ask(question)
    return chat


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_a_conversation(browser: Browser, word_server: ChatServer, images: Path, look: str) -> None:
    earlier = ["Spell the word strawberry", "A poem about gradients", "Which is the largest planet?"]
    questions = ["What is 12*7?", "Why is the sky blue?"]
    if look == "dark":
        questions = ["Which letters are the most common ones of a text?"]
    with visitor(browser, allowed=OWN_HOST, **LOOKS[look]) as page:
        talk(page, word_server, *questions, earlier=[] if look == "phone" else earlier)
        take(page, images, look)


def test_the_probabilities(
    browser: Browser, word_server: ChatServer, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_engine, "scored_token", plausible)
    with visitor(browser, allowed=OWN_HOST) as page:
        chat = ChatPage(page, word_server.url).open()
        chat.show_tokens(True)
        talk(page, word_server, "What is 12*7?", "Why is the sky blue?")
        page.mouse.move(640, 4)
        text = chat.last_answer.locator(".token-text")
        text.focus()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#token-card")).to_be_visible()
        path = take_picture(page, images / "chat-probabilities.png", colors=COLORS)
        assert path.stat().st_size < MAX_BYTES


def test_the_tokenizer(browser: Browser, word_server: ChatServer, images: Path) -> None:
    with visitor(browser, allowed=OWN_HOST) as page:
        chat = ChatPage(page, word_server.url).open()
        chat.button("Tokenizer playground").click()
        expect(page.locator(".piece").first).to_be_visible()
        take(page, images, "tokenizer")
