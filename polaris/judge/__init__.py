"""A writing prompt and a story in, a checked judgement by the Story Quality rubric out."""
