"""A run's finished artifacts in, one self-contained HTML page and the same figures as JSON out."""
