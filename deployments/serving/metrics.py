"""Numbers for Prometheus, named as vLLM names its own (with `nanochat:` before them), so that its dashboards fit."""

from collections.abc import Callable, Iterator, Sized

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nanochat_core.inference.requests import EngineStats

FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BETWEEN_TOKENS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
PREFIX = "nanochat:"


class Metrics:
    """One registry for one server, so that several can live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{PREFIX}{name}", text, registry=self.registry, buckets=buckets)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"{PREFIX}{name}", text, labels, registry=self.registry)

        self.first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_SECONDS
        )
        self.between_tokens = histogram(
            "inter_token_latency_seconds", "Between one token of a sample and the next.", BETWEEN_TOKENS_SECONDS
        )
        self.whole = histogram("e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_SECONDS)
        self.succeeded = counter("request_success_total", "Samples that came to their end.", ("finished_reason",))
        self.aborted = counter(
            "request_aborted_total", "Requests that were given up: the client went away, or the server ended."
        )
        self.errors = counter("request_errors_total", "Answers that were errors.", ("status",))
        self.http = counter("http_requests_total", "Answers by path and status.", ("path", "method", "status"))
        self.http_in_flight = Gauge(
            f"{PREFIX}http_requests_in_flight", "Requests that are being answered.", registry=self.registry
        )

    def watch(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        """Add what the engine says of itself, looked up whenever somebody asks."""
        self.registry.register(EngineCollector(model_name, stats))

    def count_connections(self, connections: Sized) -> None:
        """Add how many connections are open, looked up whenever somebody asks."""
        gauge = Gauge(f"{PREFIX}http_connections", "Open connections.", registry=self.registry)
        gauge.set_function(lambda: len(connections))

    def text(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """Reads the engine's counters at each look."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._model_name, self._stats = model_name, stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        used = stats.pages_used / stats.pages_total if stats.pages_total else 0.0
        gauges = {
            "num_requests_running": ("Requests in the batch.", stats.running),
            "num_requests_waiting": ("Requests in line.", stats.waiting),
            "kv_cache_usage_perc": ("Share of the memory for keys and values that is in use; 1 is all.", used),
        }
        counters = {
            "prompt_tokens": ("Tokens of prompts.", stats.prompt_tokens),
            "generation_tokens": ("Tokens that were generated.", stats.generated_tokens),
            "prefix_cache_queries": ("Tokens of prompts that were looked up among earlier ones.", stats.prompt_tokens),
            "prefix_cache_hits": ("Tokens of prompts that were not computed anew.", stats.cached_prompt_tokens),
            "num_preemptions": ("Requests that were put back because memory ran out.", stats.restarts),
            "engine_steps": ("Steps of the engine.", stats.steps),
        }
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=["model_name"])
            gauge.add_metric([self._model_name], value)
            yield gauge
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(f"{PREFIX}{name}", text, labels=["model_name"])
            counter.add_metric([self._model_name], value)
            yield counter
