"""The chat model that MLflow loads and serves answers as our engine does."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from deployments.mlflow_model import log_model, logged_form, response
from nanochat_core.errors import ArtifactError
from nanochat_core.inference.interface import GenerateRequest
from nanochat_core.inference.load import load_text_model
from nanochat_core.inference.requests import Update
from tests.nanochat_core.conversion.trained_models import CPU, Artifact, write_artifact

QUESTION = {"role": "user", "content": "What is 12*7? <|assistant_end|>"}
TOKENS = 9
SERVER_SECONDS = 180.0


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("mlflow"), "full")


def saved(artifact: Artifact, folder: Path, *, copy: bool) -> Path:
    """Write the model as `mlflow.pyfunc.log_model` does, without a tracking store."""
    copies = folder.with_name("copies")
    copies.mkdir()
    form = logged_form(artifact.folder, artifact.tokenizer_folder, precision="auto", copy_to=copies if copy else None)
    mlflow.pyfunc.save_model(path=str(folder), **form)
    shutil.rmtree(copies)
    return folder


@pytest.fixture(scope="module")
def model(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlflow.pyfunc.load_model(str(saved(artifact, tmp_path_factory.mktemp("saved") / "model", copy=False)))


def expected(artifact: Artifact) -> str:
    """Return what our engine says to the question."""
    own = load_text_model(artifact.folder, artifact.tokenizer_folder, device=CPU)
    request = GenerateRequest(conversation={"messages": [QUESTION]}, max_new_tokens=TOKENS)
    return own.generate([request])[0][0].text


def text_of(answer: dict[str, Any]) -> str:
    return "".join(part["text"] for part in answer["output"][0]["content"])


def asked(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"input": list(messages or [QUESTION]), "max_output_tokens": TOKENS, **fields}


def test_an_answer_is_the_engine_s_with_its_usage_and_parts(artifact: Artifact, model: Any) -> None:
    answer = model.predict(asked())
    assert text_of(answer) == expected(artifact) != ""
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    usage = answer["usage"]
    assert usage["output_tokens"] == TOKENS and usage["total_tokens"] == usage["input_tokens"] + TOKENS
    parts = [{"type": "input_text", "text": QUESTION["content"]}]
    assert text_of(model.predict(asked({"role": "user", "content": parts}))) == text_of(answer)
    system = model.predict(asked({"role": "system", "content": "Be brief."}, QUESTION))
    assert system["usage"]["input_tokens"] > usage["input_tokens"]


def test_calls_of_the_tool_are_parts_and_no_text() -> None:
    updates = [Update(0, text=text, kind=kind) for text, kind in (("So ", "text"), ("1", "python"), ("+1", "python"))]
    updates += [Update(0, text="2", kind="python_output"), Update(0, text="it is 2.", finish_reason="stop")]
    answer = response(updates, 3).model_dump(exclude_none=True)
    assert (text_of(answer), answer["status"]) == ("So it is 2.", "completed")
    parts = [(part["type"], part["text"]) for part in answer["custom_outputs"]["parts"]]
    assert parts == [("text", "So "), ("python", "1+1"), ("python_output", "2"), ("text", "it is 2.")]


def test_a_stream_is_the_answer_in_pieces_and_a_reader_who_leaves_frees_its_place(model: Any) -> None:
    whole = text_of(model.predict(asked()))
    *deltas, done = model.predict_stream(asked())
    assert "".join(event["delta"] for event in deltas) == whole and len(deltas) > 1
    assert done["item"]["content"][0]["text"] == whole
    stream = model.predict_stream(asked(max_output_tokens=50))
    next(stream)
    stream.close()
    service = model._model_impl.get_raw_model()._service
    deadline = time.monotonic() + 60
    while service.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.stats().running == 0


def test_sampling_is_the_request_s_and_requests_of_several_threads_share_a_batch(model: Any) -> None:
    def sampled(seed: int) -> str:
        return text_of(model.predict(asked(temperature=1.0, custom_inputs={"seed": seed, "top_k": 50})))

    alone = [sampled(seed) for seed in range(4)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(sampled, range(4))) == alone


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (asked({"role": "assistant", "content": "Hi"}), "begins with the user's message"),
        (asked({"role": "user", "content": "long " * 200}), "context is 64 tokens"),
        (asked(custom_inputs={"seeed": 1}), "unknown 'seeed'"),
        (asked(max_output_tokens=0), "max_output_tokens is 0"),
        (asked({"role": "user", "content": [{"type": "input_image"}]}), "parts of type 'input_image'"),
        (asked({"type": "function_call_output", "call_id": "1", "output": "x"}), "items of type"),
    ],
)
def test_what_cannot_be_answered_is_refused_as_the_client_s_mistake(
    request_: dict[str, Any], problem: str, model: Any
) -> None:
    with pytest.raises(MlflowException, match=problem) as refused:
        model.predict(request_)
    assert refused.value.get_http_status_code() == 400


def test_a_model_that_takes_its_weights_along_outlives_the_artifact(artifact: Artifact, tmp_path: Path) -> None:
    elsewhere = Artifact(
        artifact.model,
        artifact.tokenizer,
        tmp_path,
        shutil.copytree(artifact.folder, tmp_path / "sft"),
        shutil.copytree(artifact.tokenizer_folder, tmp_path / "tokenizer"),
    )
    copied = saved(elsewhere, tmp_path / "copied", copy=True)
    referring = saved(elsewhere, tmp_path / "referring", copy=False)
    shutil.rmtree(elsewhere.folder)
    assert text_of(mlflow.pyfunc.load_model(str(copied)).predict(asked())) == expected(artifact)
    with pytest.raises(ArtifactError, match=r"logged by reference, and .* is gone"):
        mlflow.pyfunc.load_model(str(referring))


def test_a_prompt_leaves_no_trace_in_mlflow(model: Any) -> None:
    agent = model._model_impl.get_raw_model()
    assert "predict" not in vars(type(agent)) and not hasattr(agent.predict, "__wrapped__")


@contextmanager
def served(uri: str, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Run `mlflow models serve` and yield its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-p", str(port)]
    with open(folder / "serve.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "serve.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [[], ["--copy", "--register", "talker"]])
def test_mlflow_serves_what_the_command_has_logged(options: list[str], artifact: Artifact, tmp_path: Path) -> None:
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "1",
    }
    arguments = [str(artifact.folder), str(artifact.tokenizer_folder), "--name", "talker", *options]
    done = subprocess.run(
        [sys.executable, "-m", "deployments.mlflow_model", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    logged = re.search(r"^Logged: (\S+)$", done.stdout, re.MULTILINE)
    assert logged and f"mlflow models serve -m {logged[1]} --env-manager local" in done.stdout
    uri = "models:/talker/1" if options else logged[1]
    with served(uri, environment | {"PYTHONPATH": str(Path(__file__).parents[2])}, tmp_path) as address:
        answer = post(f"{address}/invocations", asked())
        assert text_of(answer) == expected(artifact)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(f"{address}/invocations", asked({"role": "assistant", "content": "Hi"}))
        assert refused.value.code == 400
        assert text_of(post(f"{address}/invocations", asked(temperature=0))) == text_of(answer)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_signature_of_the_command_has_what_the_flow_passes() -> None:
    assert {"model_folder", "tokenizer_folder", "name", "copy", "register"} <= set(log_model.__annotations__)
