"""What the terminal says once a server answers: where, and how to talk to it."""

import json

from nanochat_core.serve_spec import LOOPBACK, ServeSpec

QUESTION = {"messages": [{"role": "user", "content": "What is 12*7?"}]}


def greeting(spec: ServeSpec, url: str, *, needs_key: bool) -> list[str]:
    """Return the lines. An address that others can reach, without API keys, is warned of."""
    key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    lines = [
        f"{spec.model_name} answers at {url}",
        f"  in a browser:   {url}/",
        f"  in a terminal:  nanochat chat --url {url}",
        f"  for programs:   {url}/v1, by OpenAI's API; {url}/docs says what it takes",
        f"  try it:         curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key}"
        f" -d '{json.dumps(QUESTION)}'",
        "  stop it:        Ctrl-C",
    ]
    if spec.host not in LOOPBACK and not needs_key:
        lines.append(f"warning: whoever reaches {spec.host} may use this model: set API keys (--api-keys-file).")
    return lines
