"""The command line: ``projkit --help``."""


def main() -> None:
    """Run a command; the exit code is 0 on success, 1 on failure and 2 for a usage error."""
    from projkit.cli.commands import run  # workers import this package but no commands

    run()
