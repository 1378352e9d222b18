"""Anthologies in, stories and then pairs of prompt and story out."""
