"""projkit assets: what it writes, and that it fits what the kit does."""

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
NAMES: Final = ("deployment.yaml", "migrate-job.yaml", "pod-disruption-budget.yaml", "service.yaml")


@pytest.fixture
def manifests(run: Run, tmp_path: Path) -> dict[str, Any]:
    """What is written, by kind."""
    run("assets", "kubernetes", "k8s/base")
    directory = tmp_path / "k8s" / "base"
    assert tuple(sorted(path.name for path in directory.iterdir())) == NAMES
    read = [yaml.safe_load(path.read_text()) for path in directory.iterdir()]
    return {each["kind"]: each for each in read}


def test_it_never_overwrites_unasked(run: Run, tmp_path: Path) -> None:
    """Where one of the files is there nothing at all is written, unless --force says so."""
    theirs = tmp_path / "service.yaml"
    theirs.write_text("theirs")
    said = run("assets", "kubernetes", ".", expect=1).stderr
    assert "service.yaml" in said
    assert "--force" in said
    assert [path.name for path in tmp_path.iterdir()] == ["service.yaml"]
    assert theirs.read_text() == "theirs"
    run("assets", "kubernetes", ".", "--force")
    assert "kind: Service" in theirs.read_text()


def test_a_directory_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    """What cannot be written is told of in a line."""
    (tmp_path / "file").write_text("")
    assert "choose another directory" in run("assets", "kubernetes", "file/below", expect=1).stderr


def containers(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """Each container that is run."""
    pods = [manifests[kind]["spec"]["template"]["spec"] for kind in ("Deployment", "Job")]
    return [container for pod in pods for container in pod["containers"]]


def test_the_probes_ask_what_there_is(manifests: dict[str, Any]) -> None:
    """Each probe asks a route of the kit's: readiness alone the one that looks at dependencies."""
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


def test_there_is_time_to_drain(manifests: dict[str, Any]) -> None:
    """A pod is killed only after it has drained and the longest request has ended, and is unready soon enough."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    drain = float(variables["PROJKIT_DRAIN_SECONDS"])
    longest = float(variables["PROJKIT_REQUEST_TIMEOUT_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > drain + longest + 1
    readiness = container["readinessProbe"]
    assert drain > readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"]


def test_they_are_settings(manifests: dict[str, Any]) -> None:
    """Each variable is a setting of the kit's, and production takes them."""
    for container in containers(manifests):
        given = {each["name"].removeprefix("PROJKIT_").lower(): each["value"] for each in container["env"]}
        assert Settings(secret=SECRET, **given).env == "production"


def test_they_may_do_nothing_else(manifests: dict[str, Any]) -> None:
    """No container runs as root, writes to its image or keeps a capability; each has its share of the memory."""
    for kind in ("Deployment", "Job"):
        pod = manifests[kind]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {"requests", "limits"} == set(container["resources"])


def test_the_labels_find_the_pods(manifests: dict[str, Any]) -> None:
    """The Service, the budget and the Deployment mean the same pods, and not the Job's."""
    pods = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == pods
    assert manifests["Service"]["spec"]["selector"] == pods
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == pods
    assert manifests["Job"]["spec"]["template"]["metadata"]["labels"] != pods


@pytest.fixture
def prometheus(run: Run, tmp_path: Path) -> dict[str, str]:
    """What is written for Prometheus, by file."""
    run("assets", "prometheus", "prometheus")
    return {path.name: path.read_text() for path in (tmp_path / "prometheus").iterdir()}


@pytest.fixture
def grafana(run: Run, tmp_path: Path) -> dict[str, str]:
    """What is written for Grafana, by file."""
    run("assets", "grafana", "grafana")
    return {path.name: path.read_text() for path in (tmp_path / "grafana").iterdir()}


def test_what_is_written(prometheus: dict[str, str], grafana: dict[str, str]) -> None:
    """Rules, configurations and what the Prometheus Operator takes; dashboards and what Grafana finds them by."""
    assert prometheus.keys() == {
        "alertmanager.yml", "alerts.yml", "prometheus-rule.yaml", "prometheus.yml", "recording-rules.yml",
        "service-monitor.yaml",
    }  # fmt: skip
    assert grafana.keys() == {"dashboards.yaml", "datasources.yaml", "endpoints.json", "overview.json"}
    for name, text in {**prometheus, **grafana}.items():
        assert json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def test_series_that_there_are(prometheus: dict[str, str], grafana: dict[str, str]) -> None:
    """Each of the kit's series that a rule or a panel asks for is one that the kit has, and each bucket as well."""
    known = {f"{each.name}_total" if each.kind == "counter" else each.name for each in SCALARS}
    known |= {f"{each.name}_{part}" for each in HISTOGRAMS for part in ("bucket", "count", "sum")}
    for name in ("alerts.yml", "recording-rules.yml", "overview.json", "endpoints.json"):
        text = {**prometheus, **grafana}[name]
        asked = set(re.findall(r"(?<![:\w-])projkit_\w+", text))
        assert asked, name
        assert asked <= known, name
        bounds = {float(bound) for bound in re.findall(r'le=\\?"([0-9.]+)', text)}
        assert bounds <= set(EXPORTED_BOUNDS), name


def test_the_operator_gets_the_same_rules(prometheus: dict[str, str]) -> None:
    """The PrometheusRule has all groups of the two files, and the ServiceMonitor finds the Service and its Secret."""
    groups = [
        group
        for name in ("recording-rules.yml", "alerts.yml")
        for group in yaml.safe_load(prometheus[name])["groups"]
    ]
    assert yaml.safe_load(prometheus["prometheus-rule.yaml"])["spec"] == {"groups": groups}


def test_the_monitor_finds_the_service(prometheus: dict[str, str], manifests: dict[str, Any]) -> None:
    """The ServiceMonitor means the Service, its port, and the token that the Deployment's Secret gives the kit."""
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


def test_runbooks_of_ones_own(run: Run, tmp_path: Path) -> None:
    """Alerts link to where --runbooks says that they are, in both forms of the rules."""
    run("assets", "prometheus", "here", "--runbooks", "https://wiki.example/projkit/")
    for name in ("alerts.yml", "prometheus-rule.yaml"):
        text = (tmp_path / "here" / name).read_text()
        assert "runbook_url: https://wiki.example/projkit/ProjkitTargetDown.md" in text
        assert "docs/runbooks" not in text.replace("`docs/runbooks`", "")


def test_pictures_lead_to_traces(grafana: dict[str, str]) -> None:
    """Grafana is told that exemplars name a trace, and which data source has it; provisioned boards are found."""
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
