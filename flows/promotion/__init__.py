"""The promotion flow's parts: the decision, the registry's alias, the table."""
