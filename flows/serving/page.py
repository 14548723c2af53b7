"""What Prefect's UI shows of a server: a link to its page, and what it serves, since when, and how to call it."""

import time
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows import lineage
from flows.background import in_background
from nanochat_core import artifacts
from nanochat_core.artifacts import Manifest
from nanochat_core.errors import ArtifactError
from nanochat_core.serve_spec import ServeSpec

SHOWN_METRICS = 6


def publish(url: str, spec: ServeSpec, *, reference: str, answer: str, has_keys: bool) -> None:
    """Show the endpoint in the run and in the list of artifacts, in the background."""
    page = endpoint_page(url, spec, reference=reference, answer=answer, has_keys=has_keys)
    about = f"{reference} as {spec.model_name}"
    in_background(lambda: create_link_artifact(url, link_text=f"Chat: {url}", key="chat-page", description=about))
    in_background(lambda: create_markdown_artifact(page, key=f"endpoint-{spec.port}", description=f"{about}: {url}"))


def publish_end(url: str, spec: ServeSpec, reason: str) -> None:
    """Show that the endpoint is no more, or another's."""
    page = f"# {url}\n\nSince {now()} not served by this run any more: {reason}"
    in_background(lambda: create_markdown_artifact(page, key=f"endpoint-{spec.port}", description=reason))


def endpoint_page(url: str, spec: ServeSpec, *, reference: str, answer: str, has_keys: bool) -> str:
    """Return the page in markdown."""
    folder = Path(spec.model_folder)
    manifest = artifacts.read_manifest(folder)
    sections = [
        f"# [{url}]({url})",
        f"`{spec.model_name}` is **{reference}**, ready since {now()}.",
        f"Its first answer: {quoted(answer)}",
        how_to_call(url, spec.model_name, has_keys=has_keys),
        "## What it was made from\n\n" + lineage_table(folder, manifest),
    ]
    return "\n\n".join(sections)


def how_to_call(url: str, model: str, *, has_keys: bool) -> str:
    """Return how to ask the server in a terminal and in Python."""
    header = " \\\n  -H 'Authorization: Bearer YOUR_KEY'" if has_keys else ""
    key = "YOUR_KEY" if has_keys else "none"
    return f"""## How to ask it

In a browser: [{url}]({url}). In a terminal:

```sh
curl {url}/v1/chat/completions{header} \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is 12*7?"}}]}}'
```

With the `openai` package:

```python
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "What is 12*7?"}}]
answer = client.chat.completions.create(model="{model}", messages=messages)
print(answer.choices[0].message.content)
```

`GET {url}/health` says whether it is well, `GET {url}/metrics` how it is doing; `{url}/docs` describes the API."""


def lineage_table(folder: Path, manifest: Manifest | None) -> str:
    """Return the stages behind a model, the nearest first, with the model's headline numbers."""
    if manifest is None:
        return f"Folder `{folder}`."
    try:
        folders = lineage.ancestors(folder)
    except ArtifactError as error:
        return f"Folder `{folder}`. {error}"
    lines = ["| stage | folder | content | code |", "|---|---|---|---|"]
    for stage, path in folders.items():
        found = artifacts.read_manifest(path)
        cells = (found.digest[:16], found.git_commit or "unknown") if found else ("unknown", "unknown")
        lines.append(f"| {stage} | `{path}` | `{cells[0]}` | {cells[1]} |")
    numbers = [f"{name} {shown(value)}" for name, value in list(manifest.metrics.items())[:SHOWN_METRICS]]
    return "\n".join(lines) + (f"\n\nIts numbers: {', '.join(numbers)}." if numbers else "")


def shown(value: float | int | str | None) -> str:
    """Return a number in a few characters.

    >>> shown(0.123456), shown(3), shown("d4")
    ('0.1235', '3', 'd4')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    """Return text of a model, in which nothing is markdown.

    >>> quoted("8`4\\n# x")
    "`8'4 # x`"
    """
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
