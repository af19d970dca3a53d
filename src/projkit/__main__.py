"""The command line as ``python -m projkit``."""

from projkit.cli import main

main()
