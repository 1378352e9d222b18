"""Stories and their judgements in, figures with intervals out: one file a benchmark, no model, no network."""
