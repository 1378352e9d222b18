"""`python -m polaris` is the `polaris` command."""

from polaris.cli import main

main()
