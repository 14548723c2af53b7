"""CORE: in-context learning of base models (Li et al. 2024, DCLM, arXiv:2406.11794, 22 low-variance tasks)."""
