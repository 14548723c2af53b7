"""The chat in the terminal: over an engine here, or a server anywhere."""
