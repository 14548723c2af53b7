"""A model behind OpenAI's HTTP API: `python -m deployments.serving SPEC.json`."""
