"""What the parts of one server share: its spec, its engine once that is loaded, its phase, what runs."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from deployments.serving.auth import ApiKeys
from deployments.serving.errors import ApiError, invalid, unavailable
from deployments.serving.metrics import Metrics
from nanochat_core.inference.requests import AsyncEngine
from nanochat_core.serve_spec import ServeSpec
from nanochat_core.tokenizer.bpe import Tokenizer

Phase = Literal["loading", "ready", "draining"]


class ServedEngine(AsyncEngine, Protocol):
    """An engine with the tokenizer that its model was trained with."""

    tokenizer: Tokenizer


@dataclass
class ServerState:
    """The one state of a server; `app.state.serving` of its application."""

    spec: ServeSpec
    keys: ApiKeys = field(default_factory=ApiKeys)
    metrics: Metrics = field(default_factory=Metrics)
    engine_or_none: ServedEngine | None = None
    phase: Phase = "loading"
    is_replaced: bool = False  # draining because another server has taken over: requests that still come are answered
    in_flight: int = 0  # requests that are being answered
    aborted: asyncio.Event = field(default_factory=asyncio.Event)  # set: answers that still run end now
    started: float = field(default_factory=time.time)

    @property
    def engine(self) -> ServedEngine:
        """The engine; raises ApiError (503) while it is loading."""
        if self.engine_or_none is None:
            raise unavailable("The model is still loading.", code="loading", retry_seconds=5)
        return self.engine_or_none

    @property
    def needs_key(self) -> bool:
        return bool(self.keys)

    @property
    def failure(self) -> str | None:
        """Why the engine is dead, if it is."""
        return self.engine_or_none.stats().failure if self.engine_or_none else None

    @property
    def is_ready(self) -> bool:
        return self.phase == "ready" and self.failure is None

    def check_model(self, name: str | None) -> None:
        """Raise ApiError where a client asks for a model that is not served here."""
        if name is not None and name != self.spec.model_name:
            message = f"There is no model {name[:100]!r} here; this server has {self.spec.model_name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_ids(self, ids: tuple[int, ...], param: str) -> None:
        """Raise ApiError where an id is none of the vocabulary, or there is none."""
        if not ids:
            raise invalid("A prompt needs at least one token.", param)
        if min(ids) < 0 or max(ids) >= self.engine.vocab_size:
            raise invalid(f"Token ids are 0 to {self.engine.vocab_size - 1}.", param)
