"""A plan in, a finished run out: the loop, and what carries its actions out."""
