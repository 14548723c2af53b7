"""Texts and conversations on which two tokenizers, or two models, must agree: what is easy to get wrong, on purpose."""

from nanochat_core.inference.interface import Conversation

TEXTS = (
    "The quick brown fox jumps over the lazy dog; it's 3 o'clock, they'll say, and we've 12,345.67 reasons.",
    "def f(x):\n    return x ** 2  # tabs:\t\there\n\n\nclass A:\n\tpass\n",
    "one\r\ntwo\r\n\r\nthree\rfour\n",
    "🙂👩‍👩‍👧‍👦🇩🇪 emoji, joined and flagged 🏳️‍🌈",
    "人工智能改变世界。こんにちは、世界！ 안녕하세요",
    "Ünïcödé: café, cafe\u0301, ﬁ, Ⅷ, ½, ٣, नमस्ते, שלום, ไทย",
    "\x00\x01\x07\x08\x0b\x0c\x1b[0m\x1f\x7f\x80\x9f\ufeff\u200b\u2028\ufffd",
    "<|bos|> <|user_start|>x<|user_end|><|assistant_start|>y<|assistant_end|><|python_start|>1+1<|python_end|>",
    "<|bos| > <|bos |> <<|bos|>> |bos|> <|output_start|><|output_end|><|unknown|> a <| b |> c",
    "   leading, trailing   ",
    "       ",
    "\n",
    "1234567890 00 1 22 333 4444 3.14159 -2e-10 0xff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "https://example.com/a?b=c&d=%20#e  \\n \\\\ \"quotes\" 'single' `code` {json: [1, 2]}",
)


def _turns(*contents: object, system: str | None = None) -> Conversation:
    """Return a conversation of contents in turn, the user's first."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


CONVERSATIONS = (
    *(_turns(text, text) for text in TEXTS),
    _turns("Hi", "Hello!", "And now?", "Still here.", "Bye", "Bye <|assistant_end|>", system="Be brief."),
    _turns(TEXTS[3], TEXTS[4], system=TEXTS[7]),
    _turns(
        "What is 12*7?",
        [
            {"type": "text", "text": "That is "},
            {"type": "python", "text": "12*7"},
            {"type": "python_output", "text": "84"},
            {"type": "text", "text": "84 🙂"},
        ],
        "Thanks",
        [{"type": "python", "text": "'<|bos|>'.count('o')"}, {"type": "python_output", "text": "<|output_end|>"}],
    ),
    _turns("Nothing to say?", ""),
    _turns("A question alone"),
)
