"""Evaluation of a model behind a URL, that of a server which speaks OpenAI's API.

    https://example.org/v1#NAME     the model NAME there; without #NAME, the first that the server lists

The model behind an address may change, so a finished evaluation is never reused: the same question asked again is
another one, that which comes after the last (so says its fingerprint), with a folder of its own. One that was killed in
the middle is still the same, and goes on.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from flows.download import TASK_DATA
from flows.evaluate import MODULE, VERSION, evaluation_params
from flows.evaluation.request import Asked, asked_of
from flows.stage import Stage
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import Manifest
from nanochat_core.errors import SpecError
from nanochat_core.inference.endpoint import EndpointModel
from nanochat_core.specs import EvaluateSpec

STAGE = "evaluate_endpoint"


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
    """Return the stage that asks this once more. Until it is finished, it is always the same one: it goes on."""
    params = evaluation_params(asked.spec, asked.measures, model_name="endpoint", endpoint=endpoint.params)
    alike = [
        manifest
        for manifest in finished(base)
        if manifest.version == VERSION
        and manifest.inputs == {"task_data": task_data_digest}
        and all(manifest.params.get(name) == value for name, value in params.output.items())
    ]
    last = max(alike, key=lambda manifest: manifest.created).fingerprint if alike else None
    return Stage(
        name=STAGE,
        part="evaluate",
        module=MODULE,
        version=VERSION,
        params=lambda spec: replace(params, output=params.output | {"after": last}),
        inputs=lambda spec: {"task_data": TASK_DATA},
        asks_endpoint=True,
    )


def finished(base: Path) -> list[Manifest]:
    """Return the manifests of all finished evaluations of this kind."""
    folders = (paths.artifacts_dir(base) / STAGE).glob("*")
    return [manifest for folder in folders if (manifest := artifacts.read_manifest(folder)) is not None]


def last_asked(endpoint: Endpoint, base: Path, *, needs_one: bool) -> Asked:
    """Return what this model was asked last. Raises SpecError where it never was, but that it `needs_one`."""
    found = [manifest for manifest in finished(base) if manifest.params.get("endpoint") == endpoint.params]
    if not found and not needs_one:
        return Asked((), EvaluateSpec())
    if not found:
        raise SpecError(f"{endpoint.url} was never evaluated here: name what it is asked, for example --tasks GSM8K.")
    return asked_of(max(found, key=lambda manifest: manifest.created).params, (), EvaluateSpec())
