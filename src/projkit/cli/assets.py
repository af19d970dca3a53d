"""``projkit assets``: files to begin with, for what runs and watches the kit."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import typer

from projkit.cli.console import app, say
from projkit.errors import ConfigurationError

assets_app: Final = typer.Typer(help="Write out files to begin with.", no_args_is_help=True)
app.add_typer(assets_app, name="assets")

Directory = Annotated[Path, typer.Argument(file_okay=False, help="Where to write them; made if need be.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]


@assets_app.command()
def kubernetes(directory: Directory, force: Force = False) -> None:
    """Manifests for Kubernetes: a Deployment with its probes, a Service, a disruption budget, a migration Job."""
    write_out("kubernetes", directory, force=force)


def write_out(name: str, directory: Path, *, force: bool) -> None:
    """Writes one folder of the package's assets; all of it, or where something is in the way nothing.

    Raises:
        ConfigurationError: a file is there already, or the directory cannot be written.
    """
    sources = sorted(files("projkit.assets").joinpath(name).iterdir(), key=lambda each: each.name)
    targets = [directory / source.name for source in sources]
    there = [str(target) for target in targets if target.exists()]
    if there and not force:
        raise ConfigurationError(f"{', '.join(there)} would be overwritten; do so with: --force")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for source, target in zip(sources, targets, strict=True):
            target.write_bytes(source.read_bytes())
            say(f"wrote {target}")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {directory}: {error.strerror}; name another directory"
        ) from error
