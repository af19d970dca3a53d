"""The command line: ``projkit --help``."""


def main() -> None:
    """Runs a command; exit codes: 0 good, 1 failed, 2 wrong usage."""
    from projkit.cli.commands import run  # each worker imports this package and none of its commands

    run()
