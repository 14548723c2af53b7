"""A chat model for MLflow: `python -m deployments.mlflow_model MODEL_FOLDER TOKENIZER_FOLDER` logs it.

    mlflow models serve -m models:/m-… --env-manager local
    POST /invocations {"input": [{"role": "user", "content": "Hi"}], "max_output_tokens": 64}

It is a ResponsesAgent, MLflow's interface for chats, over the engine of `nanochat serve`: requests of one moment
share a batch. The weights stay where they are, and the logged model names their folder; with `--copy` it takes
them along. MLflow runs `mlflow_entry.py` to load it, so that nothing is pickled; nanochat must be installed there.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import mlflow
import typer
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent
from pydantic import ValidationError

from deployments.serving.chat_prompt import ChatPrompt, chat_prompt
from deployments.serving.errors import ApiError
from deployments.serving.schemas import Message
from nanochat_core.checkpoint import META_FILE, MODEL_FILE, latest
from nanochat_core.errors import ArtifactError, NanochatError
from nanochat_core.inference.requests import EngineBusy, EngineFailed, Request, Sampling, Update
from nanochat_core.inference.service import EngineOptions, EngineService, load_engine
from nanochat_core.tokenizer.bpe import FILE_NAME

T = TypeVar("T")
DEFAULT_TOKENS = 256
OPTIONS = {"temperature", "top_k", "top_p", "min_p", "seed", "use_tools"}  # that custom_inputs may give


class Answers:
    """How the model answers. MLflow records what a subclass of its own defines, prompts included; this is none."""

    _service: EngineService
    _loop: asyncio.AbstractEventLoop

    def load_context(self, context: Any) -> None:
        """Load the engine once; `context` says where the weights are: in MLflow's store, or where they were made."""
        config = context.model_config or {}
        copied = context.artifacts.get("model") if context.artifacts else None
        model = Path(copied or config["model_folder"])
        tokenizer = Path(copied or config["tokenizer_folder"])
        if not model.is_dir():
            raise ArtifactError(
                f"The model was logged by reference, and {model} is gone: log it again, or with --copy."
            )
        self._service = load_engine(model, tokenizer, options=EngineOptions(precision=config.get("precision", "auto")))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="nanochat-answers", daemon=True).start()

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        """Answer a chat. Raises MlflowException (status 400) for one that cannot be answered."""
        prompt, sampling = self._asked(request)
        updates = self._await(self._all(Request(prompt.ids, sampling)))
        return response(updates, len(prompt.ids))

    def predict_stream(self, request: ResponsesAgentRequest) -> Iterator[ResponsesAgentStreamEvent]:
        """Answer a chat piece by piece; the last event holds the whole text."""
        prompt, sampling = self._asked(request)
        stream = self._service.stream(Request(prompt.ids, sampling))
        item, texts = f"msg_{uuid.uuid4().hex}", []
        try:
            while (update := self._await(_next(stream))) is not None:
                if update.kind == "text" and update.text:
                    texts.append(update.text)
                    yield ResponsesAgentStreamEvent(**ResponsesAgent.create_text_delta(update.text, item))
        finally:
            self._await(stream.aclose())  # a reader that has gone takes its request out of the batch
        done = ResponsesAgent.create_text_output_item("".join(texts), item)
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=done)

    def _asked(self, request: ResponsesAgentRequest) -> tuple[ChatPrompt, Sampling]:
        """Return prompt and sampling; raises MlflowException for what cannot be."""
        tokens = DEFAULT_TOKENS if request.max_output_tokens is None else request.max_output_tokens
        given = {name: getattr(request, name) for name in ("temperature", "top_p")} | (request.custom_inputs or {})
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(set(given) - OPTIONS):
            raise refusal(f"custom_inputs: unknown {unknown[0]!r}; known are {', '.join(sorted(OPTIONS))}")
        if tokens < 1:
            raise refusal(f"max_output_tokens is {tokens}; expected 1 or more")
        room = self._service.max_context
        try:
            messages = [_message(item.model_dump(exclude_none=True)) for item in request.input]
            prompt = chat_prompt(self._service.tokenizer, messages, max_context=room, answer_tokens=tokens)
        except ApiError as error:
            raise refusal(error.message) from None
        return prompt, Sampling(max_new_tokens=min(tokens, room - len(prompt.ids)), **given)

    async def _all(self, request: Request) -> list[Update]:
        return [update async for update in self._service.stream(request)]

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the engine's loop, from a thread of MLflow's."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (ValueError, TypeError) as error:
            raise refusal(str(error)) from None
        except (EngineBusy, EngineFailed) as error:
            raise MlflowException(f"The model cannot answer now: {error}") from None


class NanochatAgent(Answers, ResponsesAgent):
    """What MLflow loads."""


async def _next(stream: AsyncIterator[Update]) -> Update | None:
    return await anext(stream, None)


def refusal(message: str) -> MlflowException:
    """Return the error that MLflow's server answers with status 400."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


def _message(item: dict[str, Any]) -> Message:
    """Return an item of the request as a message of our server's. Raises MlflowException for what is no message."""
    if item.get("type", "message") != "message":
        raise refusal(f"input: items of type {item['type']!r} are not supported, only messages")
    content = item["content"]
    if not isinstance(content, str):
        texts = ("input_text", "output_text", "text")
        if other := [part["type"] for part in content if part["type"] not in texts]:
            raise refusal(f"input: parts of type {other[0]!r} are not supported, only text")
        content = "".join(part["text"] for part in content)
    try:
        return Message(role=item["role"], content=content)
    except ValidationError:
        raise refusal(f"input: unknown role {item['role']!r}") from None


def response(updates: list[Update], prompt_tokens: int) -> ResponsesAgentResponse:
    """Return the answer: its text, and under custom_outputs the calls of the tool, too."""
    text = "".join(update.text for update in updates if update.kind == "text")
    parts: list[dict[str, str]] = []
    for update in updates:
        if parts and parts[-1]["type"] == update.kind:
            parts[-1]["text"] += update.text
        elif update.text:
            parts.append({"type": update.kind, "text": update.text})
    is_cut = updates[-1].finish_reason == "length"
    count = sum(len(update.tokens) for update in updates)
    usage = {"input_tokens": prompt_tokens, "output_tokens": count, "total_tokens": prompt_tokens + count}
    usage |= {"input_tokens_details": {"cached_tokens": updates[0].cached_tokens}}
    usage |= {"output_tokens_details": {"reasoning_tokens": 0}}
    return ResponsesAgentResponse(
        output=[ResponsesAgent.create_text_output_item(text, f"msg_{uuid.uuid4().hex}")],
        status="incomplete" if is_cut else "completed",
        incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
        usage=usage,
        custom_outputs={"parts": parts},
    )


def offer() -> None:
    """Give MLflow the model that it asks for by running `mlflow_entry.py`."""
    mlflow.models.set_model(NanochatAgent())


def logged_form(model_folder: Path, tokenizer_folder: Path, *, precision: str, copy_to: Path | None) -> dict[str, Any]:
    """Return what `mlflow.pyfunc.log_model` and `save_model` are told.

    `copy_to`: an empty folder for what the model takes along; None where it only names its folders.
    """
    form: dict[str, Any] = {
        "python_model": str(Path(__file__).with_name("mlflow_entry.py")),
        "pip_requirements": [f"nanochat=={version('nanochat')}"],
        "model_config": {"precision": precision},
    }
    if copy_to is None:
        form["model_config"] |= {"model_folder": str(model_folder), "tokenizer_folder": str(tokenizer_folder)}
        return form
    newest = model_folder if (model_folder / META_FILE).is_file() else latest(model_folder / "checkpoints")
    if newest is None:
        raise ArtifactError(f"{model_folder} holds no checkpoint. Run its stage first.")
    for path in (newest / MODEL_FILE, newest / META_FILE, tokenizer_folder / FILE_NAME):
        shutil.copyfile(path, copy_to / path.name)
    return form | {"artifacts": {"model": str(copy_to)}}


def log_model(
    model_folder: Path,
    tokenizer_folder: Path,
    name: Annotated[str, typer.Option(help="of the logged model")] = "chat",
    copy: Annotated[bool, typer.Option("--copy", help="take the weights along, for other machines")] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, int8 or int4")] = "auto",
    experiment: Annotated[str, typer.Option(help="of MLflow; made where it is not there")] = "nanochat",
    register: Annotated[str | None, typer.Option(help="also register it, under this name")] = None,
) -> None:
    """Log the model to MLflow ($MLFLOW_TRACKING_URI)."""
    mlflow.set_experiment(experiment)
    with tempfile.TemporaryDirectory() as folder:
        form = logged_form(
            model_folder.absolute(),
            tokenizer_folder.absolute(),
            precision=precision,
            copy_to=Path(folder) if copy else None,
        )
        with mlflow.start_run(run_name=f"log {name}"):
            info = mlflow.pyfunc.log_model(name=name, registered_model_name=register, **form)
    print(f"Logged: {info.model_uri}")
    print(f"Serve it: mlflow models serve -m {info.model_uri} --env-manager local")


def main() -> None:
    """Log a model; a user's mistake ends in one line."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        typer.run(log_model)
    except (NanochatError, MlflowException) as error:
        print(f"error: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
