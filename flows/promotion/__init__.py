"""The promotion flow's parts: the statistics, the decision, the registry's alias, the table."""
