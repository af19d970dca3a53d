"""One session per verb; ``nox --list`` shows them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nox
import nox.command

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["tests", "lint", "types"]

# A worker that has nothing left to do takes over from one that has: the slow tests stand together in their files.
PARALLEL = ("-n", "2", "--dist", "worksteal")
EVERY_DAY = ("--ignore=tests/hosts", "--ignore=tests/faults", "--ignore=tests/observability")
LOCKS = ("nox", "tests", "hosts", "lint", "types", "bench", "load", "dashboards")


def install(session: nox.Session, lock: str) -> None:
    """Installs what a lock file says, then projkit itself without asking for anything more."""
    session.install("--quiet", "--require-hashes", "--requirement", f"requirements/{lock}.txt")
    session.install("--quiet", "--no-deps", ".")


def run_tests(
    session: nox.Session, *chosen: str, report: Sequence[str] = (), parallel: Sequence[str] = PARALLEL
) -> None:
    """Runs tests in parallel; what fails is run once more, alone.

    The suites start servers, stop them and hold them to time limits: on a busy machine that fails now and then. What
    is really broken fails alone as well, and whoever runs chosen tests sees them as they are.
    """
    if session.posargs:
        session.run("pytest", *chosen, *session.posargs)
        return
    try:
        session.run("pytest", *chosen, *parallel, *report)
    except nox.command.CommandFailed:
        session.warn("Once more, alone, what failed; it is listed above")
        session.run("pytest", *chosen, "--last-failed", "--last-failed-no-failures=none", "-rA")


@nox.session
def tests(session: nox.Session) -> None:
    """The everyday suite, with branch coverage."""
    install(session, "tests")
    run_tests(session, *EVERY_DAY, report=("--cov", "--cov-report=term"))


@nox.session
def hosts(session: nox.Session) -> None:
    """Every host on every server, over real HTTP."""
    install(session, "hosts")
    run_tests(session, "tests/hosts")


@nox.session
def faults(session: nox.Session) -> None:
    """Killed workers, stopped databases and Redises, cancelled requests, two workers at once."""
    install(session, "tests")
    run_tests(session, "tests/faults")


@nox.session
def observability(session: nox.Session) -> None:
    """Rules, alerts and dashboards against a real Prometheus and Alertmanager."""
    install(session, "tests")
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/dashboards.txt")
    run_tests(session, "tests/observability", parallel=())  # they share one scene


@nox.session
def dashboards(session: nox.Session) -> None:
    """Writes the Grafana dashboards anew from their source."""
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/dashboards.txt")
    session.run("python", "scripts/dashboards.py")


@nox.session
def properties(session: nox.Session) -> None:
    """What Hypothesis drives, with thirty times the examples of every day."""
    install(session, "tests")
    run_tests(session, "-m", "hypothesis", "--hypothesis-profile=thorough", *EVERY_DAY)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and the direction of imports."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over everything."""
    install(session, "types")
    session.run("mypy", "src", "tests", "examples", "noxfile.py")
    benchmarks = (
        "run", "errors", "authentication", "observability", "overload", "session_check", "row_level_security",
        "in_process", "asgi_servers", "memory", "harness/laps",
    )  # fmt: skip
    paths = [f"benchmarks/{name}.py" for name in benchmarks]
    session.run("mypy", "--explicit-package-bases", *paths, env={"MYPYPATH": "src:benchmarks"})
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/load.txt")
    suites = sorted(str(path) for path in Path("loadtests").rglob("*.py"))
    session.run("mypy", "--explicit-package-bases", *suites, env={"MYPYPATH": "src:loadtests:benchmarks"})
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/dashboards.txt")
    scripts = ("scripts/dashboards.py", "scripts/draw_dashboard.py", "scripts/house.py")
    session.run("mypy", "--explicit-package-bases", *scripts, env={"MYPYPATH": "src:scripts"})


@nox.session
def bench(session: nox.Session) -> None:
    """The ratios against the peers, and what single parts cost; arguments are run.py's.

    With ``--quick`` only what has a bar to miss.
    """
    install(session, "bench")
    session.run("python", "benchmarks/run.py", *session.posargs)
    quick = ["--quick"] if "--quick" in session.posargs else []
    for script in ("errors", "observability"):
        session.run("python", f"benchmarks/{script}.py", *quick)
    if not quick:
        for script in ("authentication", "row_level_security"):
            session.run("python", f"benchmarks/{script}.py")


def install_load(session: nox.Session) -> None:
    """Locust from its lock, and the package with whatever it needs."""
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/load.txt")
    session.install("--quiet", ".")


@nox.session
def load(session: nox.Session) -> None:
    """A smoke against a demo of its own (``--smoke``: that alone); then the gate: latency targets under load.

    With ``--selftest`` what `load_selftest` does follows, in the same environment.
    """
    install_load(session)
    flags = {"--smoke", "--selftest"} & {*session.posargs}
    session.run("python", "loadtests/against_demo.py")
    if "--smoke" not in flags:
        session.run("python", "loadtests/gate.py", *(each for each in session.posargs if each not in flags))
    if "--selftest" in flags:
        session.run("python", "loadtests/gate.py", "--slowed")


@nox.session
def load_selftest(session: nox.Session) -> None:
    """The gate fails, and says where, on a server whose database was slowed down."""
    install_load(session)
    session.run("python", "loadtests/gate.py", "--slowed", *session.posargs)


@nox.session
def record(session: nox.Session) -> None:
    """Ratios to the peers on this machine, into the file that is named; `loadtests/compare.py` compares two of them."""
    install(session, "bench")
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/load.txt")
    session.run("python", "loadtests/record.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Every relative link in the documents has a target, and the index of decisions is complete."""
    session.run("python", "scripts/check_links.py")
    session.run("python", "scripts/decisions_index.py", "--check")


@nox.session
def lock(session: nox.Session) -> None:
    """Writes the lock files anew, with hashes and without any registry's address."""
    session.install("--quiet", "uv")
    for name in LOCKS:
        groups = ["tests", name] if name in {"hosts", "types"} else [name]
        if name == "types":
            groups += ["hosts", "bench", "nox"]
        # A lock for nox, locust or the dashboards knows nothing of the package; the others bring what it needs.
        source = [] if name in {"nox", "load", "dashboards"} else ["pyproject.toml"]
        session.run(
            "uv", "pip", "compile", *source, *(f"--group={group}" for group in groups),
            "--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url", "--no-header",
            "--no-annotate", "--quiet", f"--output-file=requirements/{name}.txt", *session.posargs,
        )  # fmt: skip


@nox.session(venv_backend="none")
def clean(session: nox.Session) -> None:
    """Removes what the other sessions leave behind."""
    for name in (".coverage", "htmlcov", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"):
        target = Path(name)
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            os.remove(target)
    session.log("clean")
