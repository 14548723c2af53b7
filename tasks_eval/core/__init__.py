"""CORE: 22 tasks of in-context learning for base models (Li et al. 2024, DCLM, arXiv:2406.11794, "low variance" set)."""
