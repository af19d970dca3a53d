"""What a tester may say, on the command line or by environment variables."""

import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from locust import events
from locust.argument_parser import LocustArgumentParser

LANES: Final = 8  # users of Locust, each of which keeps an equal share of the schedule
PREFIX: Final = os.environ.get("PROJKIT_LOAD_PREFIX", "/api/v1").rstrip("/")
_TARGETS: Final = Path(__file__).resolve().parent.parent / "slo.toml"


def add_options(parser: LocustArgumentParser) -> None:
    """Adds ours, and starts all lanes at once."""
    add: Any = parser.add_argument  # configargparse's own extra argument, env_var, is not in its types
    add(
        "--rate",
        type=float,
        env_var="PROJKIT_LOAD_RATE",
        help="requests a second, instead of the suite's own",
    )
    add("--login-rate", type=float, env_var="PROJKIT_LOAD_LOGIN_RATE", help="logins a second, instead of 0.5")
    add(
        "--slack",
        type=float,
        default=1.0,
        env_var="PROJKIT_LOAD_SLACK",
        help="a factor to every target of time",
    )
    add("--slo", default=str(_TARGETS), env_var="PROJKIT_LOAD_SLO", help="the file of targets")
    add("--report", default="", env_var="PROJKIT_LOAD_REPORT", help="where to write the JSON report")
    parser.set_defaults(num_users=LANES, spawn_rate=LANES)


def seconds(options: Namespace, otherwise: float) -> float:
    """How long the test takes; workers are told by their master."""
    planned: float | None = getattr(options, "planned_seconds", None)
    return planned or otherwise


def check(options: Namespace) -> None:
    """Refuses what would change the rate in silence.

    Raises:
        SystemExit: with what is wrong.
    """
    if options.num_users not in {None, LANES}:
        raise SystemExit(f"the load is said by --rate, not by --users: leave it at {LANES}")
    for name in ("rate", "login_rate", "slack"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise SystemExit(f"--{name.replace('_', '-')} must be above 0")
    if options.report:
        _check_file(Path(options.report))


def _check_file(path: Path) -> None:
    """Whether it can be written, which is better known before the test than after it."""
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise SystemExit(f"--report {path}: {error.strerror}") from error
    if not there:
        path.unlink()


events.init_command_line_parser.add_listener(add_options)
