"""POLARIS: reinforcement learning for long-form fiction, from anthologies to a judged story."""

__version__ = "0.1.0"
