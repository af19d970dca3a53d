"""`projkit assets`: the files that it writes, and that they fit the kit."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from projkit import ProjKit, Settings
from projkit.telemetry.buckets import EXPORTED_BOUNDS
from projkit.telemetry.series import HISTOGRAMS, SCALARS
from tests.cli.conftest import Run
from tests.conftest import SECRET
from tests.corpora import ROOT

yaml: Final[Any] = import_module("yaml")
NAMES: Final = (
    "deployment.yaml",
    "migrate-job.yaml",
    "pod-disruption-budget.yaml",
    "purge-cron-job.yaml",
    "service.yaml",
)


@pytest.fixture
def manifests(run: Run, tmp_path: Path) -> dict[str, Any]:
    """The Kubernetes manifests, by kind."""
    run("assets", "kubernetes", "k8s/base")
    directory = tmp_path / "k8s" / "base"
    assert tuple(sorted(path.name for path in directory.iterdir())) == NAMES
    read = [yaml.safe_load(path.read_text()) for path in directory.iterdir()]
    return {each["kind"]: each for each in read}


def test_existing_files_are_not_overwritten(run: Run, tmp_path: Path) -> None:
    """If one of the files exists, nothing is written without --force."""
    theirs = tmp_path / "service.yaml"
    theirs.write_text("theirs")
    said = run("assets", "kubernetes", ".", expect=1).stderr
    assert "service.yaml" in said
    assert "--force" in said
    assert [path.name for path in tmp_path.iterdir()] == ["service.yaml"]
    assert theirs.read_text() == "theirs"
    run("assets", "kubernetes", ".", "--force")
    assert "kind: Service" in theirs.read_text()


def test_unwritable_directory(run: Run, tmp_path: Path) -> None:
    """A directory that cannot be written to is reported in one line."""
    (tmp_path / "file").write_text("")
    assert "choose another directory" in run("assets", "kubernetes", "file/below", expect=1).stderr


def pods(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of the Deployment, the Job and the CronJob."""
    jobs = manifests["CronJob"]["spec"]["jobTemplate"]
    return [each["spec"]["template"]["spec"] for each in (manifests["Deployment"], manifests["Job"], jobs)]


def containers(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of all pods."""
    return [container for pod in pods(manifests) for container in pod["containers"]]


def test_probes_request_existing_routes(manifests: dict[str, Any]) -> None:
    """Each probe requests a route of the kit, and only readiness one that depends on other services."""
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {route.path for route in ProjKit(Settings(secret=SECRET)).routes}
    asked = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert set(asked.values()) <= paths
    assert {name: path.rpartition("/")[2] for name, path in asked.items()} == {
        "startupProbe": "live", "livenessProbe": "live", "readinessProbe": "ready",
    }  # fmt: skip
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == int(container["args"][container["args"].index("--port") + 1])
    assert all(container[name]["httpGet"]["port"] == "http" for name in asked)
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_termination_leaves_time_to_drain(manifests: dict[str, Any]) -> None:
    """A pod is killed only after draining and the longest request, and becomes unready in time."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    drain = float(variables["PROJKIT_DRAIN_SECONDS"])
    longest = float(variables["PROJKIT_REQUEST_TIMEOUT_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > drain + longest + 1
    readiness = container["readinessProbe"]
    assert drain > readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"]


def test_variables_are_valid_settings(manifests: dict[str, Any]) -> None:
    """Each variable in the manifests is a valid setting in production."""
    for container in containers(manifests):
        given = {each["name"].removeprefix("PROJKIT_").lower(): each["value"] for each in container["env"]}
        assert Settings(secret=SECRET, **given).env == "production"


def test_containers_are_restricted(manifests: dict[str, Any]) -> None:
    """No container runs as root, writes to its image or has capabilities, and all have memory limits."""
    for pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {"requests", "limits"} == set(container["resources"])


def test_selectors_match_the_pods(manifests: dict[str, Any]) -> None:
    """The Service, the disruption budget and the Deployment select the same pods, but not the Job's."""
    pods = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == pods
    assert manifests["Service"]["spec"]["selector"] == pods
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == pods
    assert manifests["Job"]["spec"]["template"]["metadata"]["labels"] != pods


@pytest.fixture
def prometheus(run: Run, tmp_path: Path) -> dict[str, str]:
    """The files for Prometheus, by name."""
    run("assets", "prometheus", "prometheus")
    return {path.name: path.read_text() for path in (tmp_path / "prometheus").iterdir()}


@pytest.fixture
def grafana(run: Run, tmp_path: Path) -> dict[str, str]:
    """The files for Grafana, by name."""
    run("assets", "grafana", "grafana")
    return {path.name: path.read_text() for path in (tmp_path / "grafana").iterdir()}


def test_written_files(prometheus: dict[str, str], grafana: dict[str, str]) -> None:
    """All rules, configurations, operator resources, dashboards and provisioning files are written."""
    assert prometheus.keys() == {
        "alertmanager.yml", "alerts.yml", "prometheus-rule.yaml", "prometheus.yml", "recording-rules.yml",
        "service-monitor.yaml",
    }  # fmt: skip
    assert grafana.keys() == {"dashboards.yaml", "datasources.yaml", "endpoints.json", "overview.json"}
    for name, text in {**prometheus, **grafana}.items():
        assert json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def test_queried_series_exist(prometheus: dict[str, str], grafana: dict[str, str]) -> None:
    """Every series and bucket that a rule or panel queries exists in the kit."""
    known = {f"{each.name}_total" if each.kind == "counter" else each.name for each in SCALARS}
    known |= {f"{each.name}_{part}" for each in HISTOGRAMS for part in ("bucket", "count", "sum")}
    for name in ("alerts.yml", "recording-rules.yml", "overview.json", "endpoints.json"):
        text = {**prometheus, **grafana}[name]
        asked = set(re.findall(r"(?<![:\w-])projkit_\w+", text))
        assert asked, name
        assert asked <= known, name
        bounds = {float(bound) for bound in re.findall(r'le=\\?"([0-9.]+)', text)}
        assert bounds <= set(EXPORTED_BOUNDS), name


def test_prometheus_rule_has_all_groups(prometheus: dict[str, str]) -> None:
    """The PrometheusRule contains all groups of both rule files."""
    groups = [
        group
        for name in ("recording-rules.yml", "alerts.yml")
        for group in yaml.safe_load(prometheus[name])["groups"]
    ]
    assert yaml.safe_load(prometheus["prometheus-rule.yaml"])["spec"] == {"groups": groups}


def test_service_monitor_selects_the_service(prometheus: dict[str, str], manifests: dict[str, Any]) -> None:
    """The ServiceMonitor selects the Service, its port, and the token in the Deployment's Secret."""
    spec = yaml.safe_load(prometheus["service-monitor.yaml"])["spec"]
    assert spec["selector"]["matchLabels"] == manifests["Service"]["metadata"]["labels"]
    (endpoint,) = spec["endpoints"]
    assert endpoint["port"] == manifests["Service"]["spec"]["ports"][0]["name"]
    assert endpoint["path"] == Settings(secret=SECRET).metrics_path
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    token = endpoint["authorization"]["credentials"]
    assert {"secretRef": {"name": token["name"]}} in container["envFrom"]
    assert token["key"].removeprefix("PROJKIT_").lower() in Settings.model_fields


def test_each_alert_has_a_runbook(prometheus: dict[str, str]) -> None:
    """Each alert links to an existing runbook with meaning, diagnosis and mitigation; no runbook is left over."""
    links = {
        rule["alert"]: rule["annotations"]["runbook_url"]
        for group in yaml.safe_load(prometheus["alerts.yml"])["groups"]
        for rule in group["rules"]
    }
    assert links == {name: f"docs/runbooks/{name}.md" for name in links}
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("Projkit*.md")} == set(links)
    for link in links.values():
        text = (ROOT / link).read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Meaning",
            "## Diagnosis",
            "## Mitigation",
        ], link
        assert "```" in text, link


def test_custom_runbook_url(run: Run, tmp_path: Path) -> None:
    """Alerts link to the URL of --runbooks, in both forms of the rules."""
    run("assets", "prometheus", "here", "--runbooks", "https://wiki.example/projkit/")
    for name in ("alerts.yml", "prometheus-rule.yaml"):
        text = (tmp_path / "here" / name).read_text()
        assert "runbook_url: https://wiki.example/projkit/ProjkitTargetDown.md" in text
        assert "docs/runbooks" not in text.replace("`docs/runbooks`", "")


def test_exemplars_link_to_traces(grafana: dict[str, str]) -> None:
    """Exemplars link to the trace data source, and the dashboards are provisioned."""
    sources = yaml.safe_load(grafana["datasources.yaml"])["datasources"]
    by_type = {each["type"]: each for each in sources}
    (destination,) = by_type["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"
    assert destination["datasourceUid"] == by_type["tempo"]["uid"]
    (provider,) = yaml.safe_load(grafana["dashboards.yaml"])["providers"]
    assert provider["type"] == "file"
    assert {json.loads(grafana[name])["uid"] for name in grafana if name.endswith(".json")} == {
        "projkit-overview", "projkit-endpoints",
    }  # fmt: skip
