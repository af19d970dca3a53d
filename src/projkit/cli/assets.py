"""``projkit assets``: files to begin with, for what runs and watches the kit."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from textwrap import indent
from typing import Annotated, Final

import typer

from projkit.cli.console import app, say
from projkit.errors import ConfigurationError

assets_app: Final = typer.Typer(help="Write out files to begin with.", no_args_is_help=True)
app.add_typer(assets_app, name="assets")

_RUNBOOKS: Final = "docs/runbooks"
_RULES: Final = ("recording-rules.yml", "alerts.yml")
_PROMETHEUS_RULE: Final = """\
# For the Prometheus Operator: the rules of recording-rules.yml and alerts.yml. Prometheus takes only PrometheusRules
# with the labels that its `ruleSelector` names: kube-prometheus-stack wants `release: <its name>`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: projkit
  labels: {app.kubernetes.io/name: projkit}
spec:
  groups:
"""

Directory = Annotated[Path, typer.Argument(file_okay=False, help="Where to write them; made if need be.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]
Runbooks = Annotated[
    str, typer.Option(help="Where your people find docs/runbooks: the address that alerts link to.")
]


@assets_app.command()
def kubernetes(directory: Directory, force: Force = False) -> None:
    """Manifests for Kubernetes: a Deployment with its probes, a Service, a disruption budget, a migration Job."""
    write_out(_folder("kubernetes"), directory, force=force)


@assets_app.command()
def prometheus(directory: Directory, runbooks: Runbooks = _RUNBOOKS, force: Force = False) -> None:
    """Rules and alerts for Prometheus, example configurations, a ServiceMonitor and a PrometheusRule."""
    contents = _folder("prometheus")
    contents["alerts.yml"] = contents["alerts.yml"].replace(
        f"runbook_url: {_RUNBOOKS}/", f"runbook_url: {runbooks.rstrip('/')}/"
    )
    groups = (contents[name].partition("\ngroups:\n")[2] for name in _RULES)
    contents["prometheus-rule.yaml"] = _PROMETHEUS_RULE + "\n".join(indent(group, "  ") for group in groups)
    write_out(contents, directory, force=force)


@assets_app.command()
def grafana(directory: Directory, force: Force = False) -> None:
    """Dashboards for Grafana, and files by which it finds them and Prometheus."""
    write_out(_folder("grafana"), directory, force=force)


def _folder(name: str) -> dict[str, str]:
    """One folder of the package's assets, by file."""
    return {
        source.name: source.read_text(encoding="utf-8")
        for source in files("projkit.assets").joinpath(name).iterdir()
    }


def write_out(contents: Mapping[str, str], directory: Path, *, force: bool) -> None:
    """Writes all of the files, or where something is in the way none.

    Raises:
        ConfigurationError: a file is there already, or the directory cannot be written.
    """
    targets = {directory / name: text for name, text in sorted(contents.items())}
    there = [str(target) for target in targets if target.exists()]
    if there and not force:
        raise ConfigurationError(f"{', '.join(there)} would be overwritten; do so with: --force")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for target, text in targets.items():
            target.write_text(text, encoding="utf-8", newline="\n")
            say(f"wrote {target}")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {directory}: {error.strerror}; name another directory"
        ) from error
