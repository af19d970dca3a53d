"""projkit assets: what it writes, and that it fits what the kit does."""

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from projkit import ProjKit, Settings
from tests.cli.conftest import Run
from tests.conftest import SECRET

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
    assert "name another directory" in run("assets", "kubernetes", "file/below", expect=1).stderr


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
