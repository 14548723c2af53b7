"""Talk to a model in the terminal: `python -m nanochat_core.inference.chat_cli MODEL_FOLDER TOKENIZER_FOLDER`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from nanochat_core.errors import NanochatError
from nanochat_core.inference.interface import Completion, Conversation, GenerateRequest, TextModel
from nanochat_core.inference.load import load_text_model

HELP = "Type a message and press Enter. /new starts a new conversation, /quit (or Ctrl-D) leaves."


def answer_text(completion: Completion) -> Text:
    """Return what the model said, its tool calls and their results in another style."""
    styles = {"text": "", "python": "cyan", "python_output": "bold green"}
    text = Text()
    for part in completion.parts:
        before, after = {"python": (" ⟦", " = "), "python_output": ("", "⟧ ")}.get(part["type"], ("", ""))
        text.append(before, style="dim").append(part["text"], style=styles[part["type"]]).append(after, style="dim")
    if completion.finish_reason == "length":
        text.append(" … (cut at the longest answer)", style="dim")
    return text


def reply(model: TextModel, conversation: Conversation, **sampling: float | int | None) -> Completion:
    """Return the model's answer to the conversation and append it to its messages."""
    completion = model.generate([GenerateRequest(conversation=conversation, **sampling)])[0][0]  # type: ignore[arg-type]
    conversation["messages"].append({"role": "assistant", "content": list(completion.parts)})
    return completion


def chat(
    model_folder: Path,
    tokenizer_folder: Path,
    prompt: Annotated[str | None, typer.Option(help="answer this one message and leave")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token")] = 0.0,
    top_k: Annotated[int, typer.Option(min=1, help="sample among the k likeliest tokens")] = 50,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 256,
    seed: Annotated[int, typer.Option(help="equal seeds give equal answers")] = 0,
) -> None:
    """Talk to the model of an artifact folder, tools included."""
    console = Console(highlight=False)
    model = load_text_model(model_folder, tokenizer_folder)
    sampling = {"temperature": temperature, "top_k": top_k, "max_new_tokens": max_new_tokens, "seed": seed}
    conversation: Conversation = {"messages": []}
    if prompt is not None:
        conversation["messages"].append({"role": "user", "content": prompt})
        console.print(answer_text(reply(model, conversation, **sampling)))
        return
    console.print(f"[dim]{HELP}[/dim]")
    while (message := _read_message(console)) is not None:
        if message == "/new":
            conversation = {"messages": []}
            console.print("[dim]A new conversation.[/dim]")
        elif message:
            conversation["messages"].append({"role": "user", "content": message})
            console.print(answer_text(reply(model, conversation, **sampling)))


def _read_message(console: Console) -> str | None:
    """Return the next line, stripped, or None at the end."""
    try:
        message = console.input("[bold blue]you:[/bold blue] ").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None
    return None if message == "/quit" else message


def main() -> None:
    """Run the chat; a user's mistake ends in one line."""
    try:
        typer.run(chat)
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
