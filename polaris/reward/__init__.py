"""A story and its judgement in, one reward and its components out: the formulas of the recipe."""
