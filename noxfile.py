"""One session per verb; ``nox --list`` shows them."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nox
import nox.command

sys.path.append(str(Path(__file__).parent / "scripts"))
from pythons import find_python

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests", "lint", "types"]

# An idle worker takes tests from a busy one: the slow tests are next to each other in their files.
PARALLEL = ("-n", "2", "--dist", "worksteal")
PYTHONS = ("3.12", "3.13")  # beside the one that runs nox
TESTS_FAILED = 1  # pytest's exit code; others mean that it could not run them
EVERY_DAY = ("--ignore=tests/hosts", "--ignore=tests/faults", "--ignore=tests/observability")
STORES = (
    "tests/db",
    *(f"tests/api/test_{name}.py" for name in ("idempotency", "life", "lists", "preconditions")),
    *(
        f"tests/auth/test_{name}.py"
        for name in (
            "attempt_counters",
            "cached_sessions",
            "login_races",
            "revocation",
            "session_stores",
            "sessions",
        )
    ),
    "tests/faults/test_redis.py",
    "tests/faults/test_redis_failover.py",
)
# The parts of the everyday suite in which packages do the work.
LOWEST = tuple(
    f"tests/{name}"
    for name in (
        "api",
        "auth",
        "cli",
        "config",
        "db",
        "health",
        "kit",
        "monitoring",
        "telemetry",
        "validation",
    )
)
LOWEST_LEFT_OUT = (
    "--ignore=tests/kit/test_host_survey.py",  # other frameworks, which need newer packages
    "--ignore=tests/kit/test_neighbours.py",
    "--ignore=tests/cli/test_idle_memory.py",  # measures the newest packages
    # Starlette's test client on a newer anyio.
    "-W",
    "ignore:The anyio.abc.BlockingPortal alias:DeprecationWarning",
)
DJANGO = ("tests/hosts/test_django_project.py", "tests/hosts/test_django_scopes.py")
# What runs on each database and in each mode: on the driver of a host's engine, each of these finds other mistakes.
DRIVERS = (
    "tests/db/test_port.py",
    *(f"tests/api/test_{name}.py" for name in ("idempotency", "life", "lists", "preconditions")),
    *(
        f"tests/auth/test_{name}.py"
        for name in ("attempt_counters", "revocation", "session_stores", "sessions", "tenancy")
    ),
    *(f"tests/validation/test_{name}.py" for name in ("authentication", "endpoints")),
    "tests/monitoring/test_database_metrics.py",
)
# What is often installed beside the package, and limits the versions of the same dependencies (docs/compatibility.md).
NEIGHBOURS = (
    "fastapi-users[sqlalchemy]>=15",
    "arq>=0.28",
    "celery[redis]==5.5.3",
    "fastapi-cache2>=0.2.2",
    "sqlmodel==0.0.47",
    "fastapi==0.133.0",
)
LOCKS = ("nox", "tests", "hosts", "lint", "types", "bench", "load", "dashboards")


def install(session: nox.Session, lock: str) -> None:
    """Install the packages of a lock file, then projkit itself without its dependencies."""
    session.install("--quiet", "--require-hashes", "--requirement", f"requirements/{lock}.txt")
    session.install("--quiet", "--no-deps", ".")


def run_tests(
    session: nox.Session, *chosen: str, report: Sequence[str] = (), parallel: Sequence[str] = PARALLEL
) -> None:
    """Run tests in parallel; run the failed ones once more, alone.

    The suites start servers, stop them and hold them to time limits: on a busy machine that fails now and then. What
    is really broken fails alone as well. Tests named on the command line are run once.
    """
    if session.posargs:
        session.run("pytest", *chosen, *session.posargs)
        return
    try:
        session.run("pytest", *chosen, *parallel, *report)
    except nox.command.CommandFailed as failure:
        if failure.return_code != TESTS_FAILED:
            raise
        session.warn("Running the failed tests once more, alone; they are listed above")
        session.run("pytest", *chosen, "--last-failed", "--last-failed-no-failures=none", "-rA")


@nox.session
def tests(session: nox.Session) -> None:
    """The everyday suite, with branch coverage."""
    install(session, "tests")
    run_tests(session, *EVERY_DAY, report=("--cov", "--cov-report=term"))


def add_tests_on(version: str) -> None:
    """Define the session that runs the everyday suite on another Python."""

    @nox.session(name=f"tests-{version}", python=find_python(version) or version)
    def other_python(session: nox.Session) -> None:
        install(session, "tests")
        run_tests(session, *EVERY_DAY)

    other_python.__doc__ = (
        f"The everyday suite on Python {version}; coverage, which doubles the time, is left to tests."
    )


for python in PYTHONS:
    add_tests_on(python)


@nox.session
def stores(session: nox.Session) -> None:
    """The tests of databases and sessions on PostgreSQL 18 and Valkey 9, whatever servers are installed."""
    install(session, "tests")
    session.env["PROJKIT_TEST_EMBEDDED"] = "1"
    run_tests(session, *STORES)


@nox.session
def drivers(session: nox.Session) -> None:
    """The tests of databases, the API and sessions on the engine of a host, with psycopg as its driver."""
    install(session, "tests")
    session.env["PROJKIT_TEST_HOST_DRIVER"] = "psycopg"
    run_tests(session, *DRIVERS)


@nox.session
def lowest(session: nox.Session) -> None:
    """The parts of the everyday suite that depend on packages, with the lowest version of each that is allowed."""
    install(session, "lowest")
    run_tests(session, *LOWEST, *LOWEST_LEFT_OUT)
    for package in NEIGHBOURS:
        session.run(
            "python", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", ".", package
        )


@nox.session
def hosts(session: nox.Session) -> None:
    """The kit in every host framework, on every server, over real HTTP."""
    install(session, "hosts")
    run_tests(session, "tests/hosts")


def add_django_on(version: str) -> None:
    """Define the session that runs the tests of Django projects on a Python that the newest Django needs."""

    @nox.session(name=f"django-{version}", python=find_python(version) or version)
    def newest_django(session: nox.Session) -> None:
        install(session, "hosts")
        run_tests(session, *DJANGO)

    newest_django.__doc__ = f"A new Django project with the kit, on Python {version} and the newest Django."


for python in PYTHONS:
    add_django_on(python)


@nox.session
def faults(session: nox.Session) -> None:
    """Killed workers, stopped databases and Redis servers, cancelled requests, several workers."""
    install(session, "tests")
    run_tests(session, "tests/faults")


@nox.session
def observability(session: nox.Session) -> None:
    """Recording rules, alerts and dashboards on a real Prometheus and Alertmanager."""
    install(session, "tests")
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/dashboards.txt")
    run_tests(session, "tests/observability", parallel=())  # they share one deployment


@nox.session
def dashboards(session: nox.Session) -> None:
    """Regenerate the Grafana dashboards from their source."""
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/dashboards.txt")
    session.run("python", "scripts/dashboards.py")


@nox.session
def properties(session: nox.Session) -> None:
    """The Hypothesis tests, with thirty times as many examples as in the everyday suite."""
    install(session, "tests")
    run_tests(session, "-m", "hypothesis", "--hypothesis-profile=thorough", *EVERY_DAY)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, and the direction of imports."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy --strict on everything."""
    install(session, "types")
    session.run("mypy", "src", "tests", "examples", "noxfile.py")
    benchmarks = (
        "run", "errors", "authentication", "observability", "overload", "session_check", "row_level_security",
        "in_process", "asgi_servers", "memory", "scale", "harness/laps",
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
    """Compare with other projects and measure the cost of single parts; arguments go to run.py.

    With ``--quick``, only the benchmarks that have a limit.
    """
    install(session, "bench")
    session.run("python", "benchmarks/run.py", *session.posargs)
    quick = ["--quick"] if "--quick" in session.posargs else []
    for script in ("errors", "observability"):
        session.run("python", f"benchmarks/{script}.py", *quick)
    if not quick:
        for script in ("authentication", "row_level_security"):
            session.run("python", f"benchmarks/{script}.py")


@nox.session
def scale(session: nox.Session) -> None:
    """Check how many pages of the database each query reads, up to 100,000 projects; `--largest 7` for 10 million."""
    install(session, "bench")
    session.run("python", "benchmarks/scale.py", *session.posargs)


def install_load(session: nox.Session) -> None:
    """Install Locust from its lock file, and the package with its dependencies."""
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/load.txt")
    session.install("--quiet", ".")


@nox.session
def load(session: nox.Session) -> None:
    """Run a smoke test against a demo server, then the latency targets under load (the gate).

    With ``--smoke``, only the smoke test. With ``--selftest``, `load_selftest` follows in the same environment.
    """
    install_load(session)
    flags = {"--smoke", "--selftest"} & {*session.posargs}
    session.run("python", "loadtests/against_demo.py")
    if "--smoke" not in flags:
        session.run("python", "loadtests/gate.py", *(flag for flag in session.posargs if flag not in flags))
    if "--selftest" in flags:
        session.run("python", "loadtests/gate.py", "--slowed")


@nox.session
def load_selftest(session: nox.Session) -> None:
    """Check that the gate fails, and names the missed targets, on a server with a slow database."""
    install_load(session)
    session.run("python", "loadtests/gate.py", "--slowed", *session.posargs)


@nox.session
def record(session: nox.Session) -> None:
    """Record the ratios to other projects on this machine in a file; `loadtests/compare.py` compares two files."""
    install(session, "bench")
    session.install("--quiet", "--require-hashes", "--requirement", "requirements/load.txt")
    session.run("python", "loadtests/record.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the relative links in the documents, and that the generated pages are up to date."""
    session.run("python", "scripts/check_links.py")
    session.run("python", "scripts/decisions_index.py", "--check")
    session.run("python", "scripts/module_map.py", "--check")


@nox.session
def lock(session: nox.Session) -> None:
    """Regenerate the lock files, with hashes and without the address of a registry."""
    session.install("--quiet", "uv")
    for name in LOCKS:
        groups = ["tests", name] if name in {"hosts", "types"} else [name]
        if name == "types":
            groups += ["hosts", "bench", "nox"]
        # The locks for nox, locust and the dashboards are independent of the package; the others have its dependencies.
        source = [] if name in {"nox", "load", "dashboards"} else ["pyproject.toml"]
        session.run(
            "uv", "pip", "compile", *source, *(f"--group={group}" for group in groups),
            "--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url", "--no-header",
            "--no-annotate", "--quiet", f"--output-file=requirements/{name}.txt", *session.posargs,
        )  # fmt: skip
    lock_lowest(session)


def lock_lowest(session: nox.Session) -> None:
    """Pin the package's own dependencies at their floors; their dependencies and the tests' tools are the newest."""
    compile_lock = (
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--python-version=3.11",
        "--no-emit-index-url",
        "--quiet",
    )
    floors = Path(session.create_tmp(), "floors.txt")
    session.run(*compile_lock, "--resolution=lowest-direct", "--no-deps", f"--output-file={floors}")
    session.run(
        *compile_lock, "--group=lowest", f"--constraint={floors}", "--universal", "--generate-hashes", "--no-header",
        "--no-annotate", "--output-file=requirements/lowest.txt", *session.posargs,
    )  # fmt: skip


@nox.session(venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove the caches and reports of the other sessions."""
    for name in (".coverage", "htmlcov", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"):
        target = Path(name)
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            os.remove(target)
    session.log("clean")
