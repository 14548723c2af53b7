"""The chat page as its tests use it: what a user sees and does there, by the names that are on the screen."""

from playwright.sync_api import Locator, Page, expect

# What a test looks at without waiting must not depend on when the page is drawn.
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"


class ChatPage:
    """The page at `url`, open and ready."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self.problems.append(message.text) if is_problem(message.text) else None)

    def open(self) -> "ChatPage":
        """Go there, and wait until it knows its server."""
        self.page.goto(self.url)
        return self.wait_until_ready()

    def reload(self) -> "ChatPage":
        self.page.reload()
        return self.wait_until_ready()

    def wait_until_ready(self) -> "ChatPage":
        self.page.locator("html[data-ready]").wait_for()
        return self

    def drawn(self) -> None:
        """Return when all that has come is on the screen."""
        self.page.evaluate(DRAWN)

    # What is there.

    @property
    def box(self) -> Locator:
        return self.page.locator("#prompt")

    @property
    def questions(self) -> Locator:
        return self.page.locator(".question .bubble")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer")

    @property
    def last_answer(self) -> Locator:
        return self.answers.last

    @property
    def titles(self) -> Locator:
        return self.page.locator(".conversation-title")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    # What one does.

    def show_tokens(self, is_wanted: bool) -> None:
        """Have answers with the probabilities of their tokens, or without."""
        if self.button("Probabilities").get_attribute("aria-pressed") != str(is_wanted).lower():
            self.button("Probabilities").click()

    def type(self, text: str) -> None:
        """Write into the message box and press Enter."""
        self.box.fill(text)
        self.box.press("Enter")

    def begin(self, text: str) -> None:
        """Ask, and return as soon as the answer is being written."""
        count = self.answers.count()
        self.type(text)
        expect(self.answers).to_have_count(count + 1)

    def ask(self, text: str) -> Locator:
        """Ask, and return the answer when it is over."""
        self.begin(text)
        self.wait_for_end()
        return self.last_answer

    def wait_for_end(self) -> None:
        """Return when no answer is being written any more."""
        expect(self.last_answer).to_have_attribute("aria-busy", "false")
        expect(self.page.locator("#stop")).to_be_hidden()


def is_problem(text: str) -> bool:
    """Whether a line of the console tells of the page's own mistake; refusals of the server are none.

    >>> is_problem("Refused to apply inline style"), is_problem("Failed to load resource: … status of 503")
    (True, False)
    """
    words = ("Refused", "Content Security Policy", "Uncaught", "TrustedHTML")
    return any(word in text for word in words)
