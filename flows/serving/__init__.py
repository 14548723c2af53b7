"""The serving flow's parts: the server as a process, its watch, its record, what Prefect and MLflow see of it."""
