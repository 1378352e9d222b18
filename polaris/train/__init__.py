"""Pairs and a base model in, a trained model and its metrics out: GRPO with human-reference injection."""
