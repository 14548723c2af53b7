"""What a server of a model is told: which model, on which address, for whom, and how much of everything. Torch-free.

`python -m deployments.serving SPEC.json` reads one; `nanochat serve` and the serving flow write it.
"""

from typing import Any, Literal

from pydantic import Field, ValidationError

from nanochat_core.errors import SpecError
from nanochat_core.spec_base import Spec
from nanochat_core.specs import explain

ServePrecision = Literal["auto", "fp32", "bf16", "int8", "int4"]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DefaultSampling(Spec):
    """How a request is answered that does not say it itself."""

    temperature: float = Field(0.8, ge=0, le=2, description="temperature; 0: always the likeliest token")
    top_k: int | None = Field(50, ge=1, le=1_000_000, description="sample among the likeliest k; empty: among all")
    top_p: float = Field(1.0, gt=0, le=1, description="sample among the likeliest that have this share of probability")
    min_p: float = Field(0.0, ge=0, le=1, description="leave out what is less likely than this share of the likeliest")
    max_tokens: int = Field(512, ge=1, le=1_048_576, description="tokens of an answer at most")


class RequestLimits(Spec):
    """What one request may ask for; more is refused with status 400, a longer body with 413."""

    messages: int = Field(500, ge=1, le=100_000, description="messages of a chat at most")
    message_characters: int = Field(8_000, ge=1, le=10_000_000, description="characters of one message at most")
    total_characters: int = Field(32_000, ge=1, le=100_000_000, description="characters of a chat at most")
    prompts: int = Field(128, ge=1, le=10_000, description="prompts of one completion request at most")
    samples: int = Field(16, ge=1, le=1_000, description="samples (n) of each prompt at most")
    max_tokens: int = Field(
        4_096, ge=1, le=1_048_576, description="tokens of an answer at most; a request for more gets so many"
    )
    top_logprobs: int = Field(20, ge=0, le=20, description="likeliest tokens that are reported beside each token")
    body_bytes: int = Field(2_097_152, ge=1_024, le=1 << 30, description="bytes of a request's body at most")
    header_bytes: int = Field(32_768, ge=4_096, le=1 << 20, description="bytes of a request's head at most")
    header_seconds: float = Field(10.0, gt=0, le=3_600, description="seconds that a request's head may take to arrive")
    body_seconds: float = Field(30.0, gt=0, le=3_600, description="seconds that a request's body may take to arrive")
    send_seconds: float = Field(
        60.0, gt=0, le=3_600, description="seconds that a client may leave an answer unread before it is cut off"
    )


class ClientLimits(Spec):
    """What one client may ask for: one API key, or one address where there are none. More is refused with 429."""

    requests_per_minute: float | None = Field(
        None, gt=0, le=1e6, description="requests in 60 seconds, on the average; empty: as many as it likes"
    )
    burst: int = Field(20, ge=1, le=100_000, description="times that a client may ask at once after a rest")
    concurrent: int | None = Field(
        None, ge=1, le=100_000, description="answers that a client may wait for at a time; empty: as many as it likes"
    )


class ServerOptions(Spec):
    """How a server serves, whatever its model is: what the serving flow's form asks for."""

    model_name: str = Field(
        "nanochat",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$",
        max_length=200,
        description="name by which clients ask for the model",
    )
    host: str = Field(
        "127.0.0.1", min_length=1, max_length=255, description="address to listen on; other than loopback, set API keys"
    )
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0: any free one")
    root_path: str = Field("", pattern=r"^(/[^\s?#]*[^\s?#/])?$", description="path that a proxy in front takes off")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names by which the server is asked (Host header), * for any; empty: on loopback its own names"
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="addresses of proxies whose X-Forwarded-For is believed; empty: nobody's"
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="origins of web pages that may use the API, for example https://chat.example; empty: none"
    )
    api_keys_file: str | None = Field(
        None, description="file with the API keys, one a line; empty: those in $NANOCHAT_API_KEYS, if any"
    )
    precision: ServePrecision = Field("auto", description="weights' precision; int8 and int4: weights only")
    max_context: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="tokens of prompt and answer together; empty: as many as it was trained on",
    )
    max_running: int = Field(32, ge=1, le=4_096, description="rows (answers) that are computed together")
    max_waiting: int = Field(128, ge=1, le=100_000, description="answers that wait for their turn; more get 503")
    step_tokens: int = Field(
        256,
        ge=16,
        le=1_048_576,
        description="tokens of prompts that are computed between two tokens of an answer: more is faster in all, fewer "
        "is smoother",
    )
    kv_memory_gb: float | None = Field(
        None, gt=0, le=10_000, description="GB for keys and values, shared by all rows; empty: what is left"
    )
    engines: int | None = Field(
        None,
        ge=1,
        le=64,
        description="processes that compute answers, each on a GPU of its own; empty: one for each GPU, on a CPU none "
        "but the server itself",
    )
    tool: str | None = Field(
        "calculator", description="tool that the model may call, by its name in nanochat.tools; empty: none"
    )
    max_connections: int = Field(1_000, ge=1, le=100_000, description="connections at a time")
    keep_alive_seconds: int = Field(75, ge=1, le=3_600, description="seconds that an idle connection stays open")
    drain_seconds: float = Field(
        30.0, ge=0, le=86_400, description="seconds that running answers have to finish when the server is stopped"
    )
    sampling: DefaultSampling = Field(DefaultSampling(), description="how to answer who does not say how")
    limits: RequestLimits = Field(RequestLimits(), description="what one request may ask for")
    per_client: ClientLimits = Field(ClientLimits(), description="what one client may ask for")
    log_prompts: bool = Field(False, description="write what is asked and answered into the log")

    def conflicts(self) -> list[str]:
        """Return every combination of values that cannot work, each as field: reason."""
        problems = []
        if self.sampling.max_tokens > self.limits.max_tokens:
            problems.append(
                f"sampling.max_tokens: {self.sampling.max_tokens} is more than limits.max_tokens allows "
                f"({self.limits.max_tokens})"
            )
        if self.limits.samples > self.max_waiting:
            problems.append(
                f"limits.samples: {self.limits.samples} answers at once never find room in a line of max_waiting "
                f"({self.max_waiting})"
            )
        return problems


class ServeSpec(ServerOptions):
    """One server of one model."""

    model_folder: str = Field(min_length=1, description="folder with the model's checkpoints")
    tokenizer_folder: str = Field(min_length=1, description="folder with its tokenizer.json")
    status_file: str | None = Field(None, description="file that tells the server's state, as JSON; empty: none")


def parse_serve_spec(data: dict[str, Any]) -> ServeSpec:
    """Return the spec in `data`; raises SpecError that lists all that is wrong."""
    try:
        spec = ServeSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError.listing(explain(error)) from None
    if problems := spec.conflicts():
        raise SpecError.listing(problems)
    return spec
