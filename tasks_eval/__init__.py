"""Benchmarks, conversations, rewards and the sandbox. The model is seen through `inference.interface` only."""
