"""Evaluation of a model behind a URL, that of a server which speaks OpenAI's API.

    https://example.org/v1#NAME     the model NAME there; without #NAME, the first that the server lists

The model behind an address may change, so a finished evaluation is never reused: each time the same is asked, it is
asked anew and keeps its own folder. One that was killed in the middle goes on.
"""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.download import TASK_DATA
from flows.evaluate import MODULE, VERSION, evaluation_params
from flows.evaluation_request import Asked, asked_of
from flows.stage import Stage, StageParams
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.inference.endpoint import EndpointModel
from nanochat_core.specs import EvaluateSpec

STAGE = "evaluate_endpoint"
ASKED = "asked"  # in the parameters: when this evaluation began, which keeps it apart from those before


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address that answers."""

    url: str
    name: str

    @property
    def short_name(self) -> str:
        """What it is called in the name of a run.

        >>> Endpoint("http://127.0.0.1:8000/v1", "nano/chat").short_name
        '127.0.0.1-8000-nano-chat'
        """
        host = urlsplit(self.url).netloc
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{host} {self.name}").strip("-.")[:60]

    @property
    def params(self) -> dict[str, str]:
        return {"url": self.url, "model": self.name}


def is_url(reference: str) -> bool:
    """Tell whether a model's name is an address.

    >>> is_url("https://example.org/v1#gpt"), is_url("models:/nanochat-chat@champion")
    (True, False)
    """
    return reference.lower().startswith(("http://", "https://"))


def connect(reference: str, asked: Asked | None = None) -> Endpoint:
    """Return the model at an address that answers. Raises SpecError where it cannot be asked this, or is none, and
    Unreachable where nobody answers."""
    url, _, name = reference.partition("#")
    if asked is not None and "bpb" in asked.measures:
        raise SpecError(f"bpb needs the model itself, {url} only answers questions: take bpb out.")
    model = EndpointModel(url, name or None)
    if asked is not None and "core" in asked.measures:
        model.check_scores()
    return Endpoint(model.url, model.name)


def stage_of(endpoint: Endpoint, asked: Asked, task_data_digest: str, base: Path) -> Stage:
    """Return the stage that asks this: that of an evaluation which was killed in the middle, else a new one."""
    params = params_of(endpoint, asked)
    mark = unfinished(params, task_data_digest, base) or f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
    marked = {"endpoint": endpoint.params | {ASKED: mark}}
    return Stage(
        name=STAGE,
        part="evaluate",
        module=MODULE,
        version=VERSION,
        params=lambda spec: StageParams(params.full | marked, params.output | marked),
        inputs=lambda spec: {"task_data": TASK_DATA},
        asks_endpoint=True,
    )


def params_of(endpoint: Endpoint, asked: Asked) -> StageParams:
    return evaluation_params(asked.spec, asked.measures, model_name="endpoint", endpoint=endpoint.params)


def unfinished(params: StageParams, task_data_digest: str, base: Path) -> str | None:
    """Return the mark of the newest unfinished evaluation that asks the same from the same data, if there is one."""
    found = []
    for folder in (paths.artifacts_dir(base) / STAGE).glob("*"):
        if artifacts.read_manifest(folder) is not None:
            continue
        try:
            request = StageFolder(folder).request
        except ArtifactError:
            continue  # it never began
        if request.version == VERSION and request.input_digests == {"task_data": task_data_digest}:
            mark = mark_of(request.params, params.output)
            found += [mark] if mark else []
    return max(found, default=None)


def mark_of(told: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """Return the mark in what an evaluation was told, if that is `output` but for the mark."""
    endpoint = dict(told.get("endpoint") or {})
    mark = endpoint.pop(ASKED, None)
    same = {name: told.get(name) for name in output} | {"endpoint": endpoint}
    return str(mark) if mark and same == dict(output) else None


def last_asked(endpoint: Endpoint, base: Path, *, needs_one: bool) -> Asked:
    """Return what this model was asked last. Raises SpecError where it never was, but that it `needs_one`."""
    found = [
        manifest
        for folder in (paths.artifacts_dir(base) / STAGE).glob("*")
        if (manifest := artifacts.read_manifest(folder))
        and mark_of({"endpoint": manifest.params.get("endpoint")}, {"endpoint": endpoint.params})
    ]
    if not found and not needs_one:
        return Asked((), EvaluateSpec())
    if not found:
        raise SpecError(f"{endpoint.url} was never evaluated here: name what it is asked, for example --tasks GSM8K.")
    return asked_of(max(found, key=lambda manifest: manifest.created).params, None, EvaluateSpec())
