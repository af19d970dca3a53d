"""``projkit assets``: example files for deploying and monitoring the kit."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from textwrap import indent
from typing import Annotated, Final

import typer

from projkit.cli.console import app, print_message
from projkit.errors import ConfigurationError

assets_app: Final = typer.Typer(
    help="Write example files for Kubernetes, Prometheus and Grafana.", no_args_is_help=True
)
app.add_typer(assets_app, name="assets")

_RUNBOOKS: Final = "docs/runbooks"
_RULES: Final = ("recording-rules.yml", "alerts.yml")
_PROMETHEUS_RULE: Final = """\
# The rules of recording-rules.yml and alerts.yml for the Prometheus Operator. Prometheus loads only PrometheusRules
# whose labels match its `ruleSelector`: kube-prometheus-stack requires `release: <its name>`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: projkit
  labels: {app.kubernetes.io/name: projkit}
spec:
  groups:
"""

Directory = Annotated[
    Path, typer.Argument(file_okay=False, help="The directory to write to; created if it does not exist.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
Runbooks = Annotated[str, typer.Option(help="The URL at which you publish docs/runbooks; alerts link to it.")]


@assets_app.command()
def kubernetes(directory: Directory, force: Force = False) -> None:
    """Write Kubernetes manifests: a Deployment with probes, a Service, a PodDisruptionBudget, a Job and a CronJob."""
    write_out(_read_assets("kubernetes"), directory, force=force)


@assets_app.command()
def prometheus(directory: Directory, runbooks: Runbooks = _RUNBOOKS, force: Force = False) -> None:
    """Write Prometheus rules, alerts and example configuration, a ServiceMonitor and a PrometheusRule."""
    contents = _read_assets("prometheus")
    contents["alerts.yml"] = contents["alerts.yml"].replace(
        f"runbook_url: {_RUNBOOKS}/", f"runbook_url: {runbooks.rstrip('/')}/"
    )
    groups = (contents[name].partition("\ngroups:\n")[2] for name in _RULES)
    contents["prometheus-rule.yaml"] = _PROMETHEUS_RULE + "\n".join(indent(group, "  ") for group in groups)
    write_out(contents, directory, force=force)


@assets_app.command()
def grafana(directory: Directory, force: Force = False) -> None:
    """Write Grafana dashboards, and the provisioning files for them and for Prometheus."""
    write_out(_read_assets("grafana"), directory, force=force)


def _read_assets(name: str) -> dict[str, str]:
    """Return the files of a folder of the package's assets, by name."""
    return {
        source.name: source.read_text(encoding="utf-8")
        for source in files("projkit.assets").joinpath(name).iterdir()
    }


def write_out(contents: Mapping[str, str], directory: Path, *, force: bool) -> None:
    """Write the files; if one of them exists and ``force`` is off, write none.

    Raises:
        ConfigurationError: a file exists, or the directory cannot be written to.
    """
    targets = {directory / name: text for name, text in sorted(contents.items())}
    existing = [str(target) for target in targets if target.exists()]
    if existing and not force:
        raise ConfigurationError(f"{', '.join(existing)} already exist; overwrite with --force")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for target, text in targets.items():
            target.write_text(text, encoding="utf-8", newline="\n")
            print_message(f"wrote {target}")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {directory}: {error.strerror}; choose another directory"
        ) from error
