"""Options of the command line and environment variables."""

import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from locust import events
from locust.argument_parser import LocustArgumentParser

ARRIVAL_STREAMS: Final = 8  # users of Locust, each with an equal share of the schedule
PREFIX: Final = os.environ.get("PROJKIT_LOAD_PREFIX", "/api/v1").rstrip("/")
_TARGETS: Final = Path(__file__).resolve().parent.parent / "slo.toml"


def add_options(parser: LocustArgumentParser) -> None:
    """Add the options of the suites, and start all arrival streams at once."""
    add: Any = parser.add_argument  # env_var is an extra argument of configargparse that its types lack
    add(
        "--rate",
        type=float,
        env_var="PROJKIT_LOAD_RATE",
        help="requests per second, instead of the suite's default",
    )
    add(
        "--login-rate", type=float, env_var="PROJKIT_LOAD_LOGIN_RATE", help="logins per second (default: 0.5)"
    )
    add(
        "--slack",
        type=float,
        default=1.0,
        env_var="PROJKIT_LOAD_SLACK",
        help="multiply every latency target by this factor",
    )
    add("--slo", default=str(_TARGETS), env_var="PROJKIT_LOAD_SLO", help="file with the targets")
    add("--report", default="", env_var="PROJKIT_LOAD_REPORT", help="write the JSON report to this file")
    parser.set_defaults(num_users=ARRIVAL_STREAMS, spawn_rate=ARRIVAL_STREAMS)


def seconds(options: Namespace, otherwise: float) -> float:
    """Return the planned duration of the test; workers get it from their master."""
    planned: float | None = getattr(options, "planned_seconds", None)
    return planned or otherwise


def check(options: Namespace) -> None:
    """Reject options that would silently change the rate.

    Raises:
        SystemExit: an option is invalid.
    """
    if options.num_users not in {None, ARRIVAL_STREAMS}:
        raise SystemExit(f"--users must stay at {ARRIVAL_STREAMS}; set the load with --rate")
    for name in ("rate", "login_rate", "slack"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise SystemExit(f"--{name.replace('_', '-')} must be greater than 0")
    if options.report:
        _check_file(Path(options.report))


def _check_file(path: Path) -> None:
    """Check before the test that the file can be written."""
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise SystemExit(f"--report {path}: {error.strerror}") from error
    if not existed:
        path.unlink()


events.init_command_line_parser.add_listener(add_options)
