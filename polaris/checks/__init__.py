"""A subject in, findings out: what `polaris check` looks at, one file for each thing."""
