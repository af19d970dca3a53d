"""``system/info``: versions, environment and settings, without secrets."""

import json
import os
import platform
import re
import sys
import time
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from pydantic import BaseModel, Field, SecretStr

from projkit.cgroups import ControlGroups
from projkit.monitoring.performance import WorkerInfo, worker_infos
from projkit.settings import Settings
from projkit.telemetry.recorder import Recorder

_REDACTED: Final = "**********"
# Up to the last @, since passwords in URLs are not always percent-encoded.
_PASSWORD: Final = re.compile(r"(?<=://).*@")
_SECRET_QUERY: Final = re.compile(r"(?i)((?:password|secret|token|key)[a-z_]*=)[^&\s]+")
_PACKAGES: Final = (
    "starlette", "sqlalchemy", "asyncpg", "aiosqlite", "alembic", "pydantic", "pydantic-settings", "joserfc",
    "authlib", "httpx2", "argon2-cffi", "limits", "redis", "hiredis", "prometheus-client", "opentelemetry-api",
    "psutil", "orjson", "uvicorn", "uvloop", "httptools", "celery", "fastapi", "litestar", "quart", "django",
    "blacksheep", "granian", "hypercorn",
)  # fmt: skip


class ResourceLimits(BaseModel):
    """The CPUs and the memory that the server may use; `cgroup`: the container's limit."""

    cpus: float
    cpu_source: Literal["cgroup", "machine"]
    memory_bytes: int
    memory_source: Literal["cgroup", "machine"]


class SystemInfo(BaseModel):
    """The versions, environment and settings of the responding process."""

    version: str
    build: str = Field(description="The commit that was installed, or a digest of the installed files.")
    python: str
    implementation: str
    platform: str
    machine: str
    hostname: str
    cpu_count: int | None
    limits: ResourceLimits
    packages: dict[str, str]
    pid: int
    workers: list[WorkerInfo]
    started_at: datetime
    uptime_seconds: float
    time: datetime
    time_zone: str
    host_framework: str | None = Field(description="The framework of the host application, if it is known.")
    event_loop: str
    enabled: dict[str, bool | str]
    settings: dict[str, Any]


def system_info(
    settings: Settings,
    recorder: Recorder,
    *,
    version: str,
    host_framework: str | None,
    event_loop: str,
    enabled: dict[str, bool | str],
) -> SystemInfo:
    """Create the report from what this process knows, without any I/O but reading package metadata and limits."""
    now = time.time()
    return SystemInfo(
        version=version,
        build=_build(),
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=platform.platform(),
        machine=platform.machine(),
        hostname=platform.node(),
        cpu_count=os.cpu_count(),
        limits=resource_limits(ControlGroups()),
        packages=_packages(),
        pid=os.getpid(),
        workers=worker_infos(recorder),
        started_at=datetime.fromtimestamp(recorder.server_started_at, UTC),
        uptime_seconds=round(now - recorder.server_started_at, 3),
        time=datetime.fromtimestamp(now, UTC),
        time_zone=time.tzname[time.localtime().tm_isdst > 0],
        host_framework=host_framework,
        event_loop=event_loop,
        enabled=enabled,
        settings=redacted_settings(settings),
    )


def resource_limits(groups: ControlGroups) -> ResourceLimits:
    """Return the container's limits, or the machine's size where it has none."""
    machine_bytes, machine_cpus = psutil.virtual_memory().total, os.cpu_count() or 1
    cpu, memory = groups.cpu(machine_cpus), groups.memory(machine_bytes)
    return ResourceLimits(
        cpus=round(cpu.limit_cpus, 3) if cpu else machine_cpus,
        cpu_source="cgroup" if cpu else "machine",
        memory_bytes=memory.limit_bytes if memory else machine_bytes,
        memory_source="cgroup" if memory else "machine",
    )


def redacted_settings(settings: Settings) -> dict[str, Any]:
    """Return each setting under its environment name, as JSON values with secrets redacted."""
    return {name.upper(): _redacted(getattr(settings, name)) for name in type(settings).model_fields}


def framework_of(app: object) -> str | None:
    """Return the package and version of a host application's framework, such as ``fastapi 0.165.0``."""
    # The host may have subclassed the framework's application.
    for each in type(app).__mro__:
        name = each.__module__.partition(".")[0]
        if name in _PACKAGES:
            return f"{name} {_version(name)}"
    return None


def _redacted(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return _REDACTED
    if isinstance(value, BaseModel):
        return {name: _redacted(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(name): _redacted(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(each) for each in value]
    if isinstance(value, str):
        return _SECRET_QUERY.sub(rf"\1{_REDACTED}", _PASSWORD.sub(f"{_REDACTED}@", value))
    if isinstance(value, Path | datetime):
        return str(value)
    return value


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@cache
def _packages() -> dict[str, str]:
    return {name: version for name in _PACKAGES if (version := _version(name))}


@cache
def _build() -> str:
    try:
        installed = metadata.distribution("projkit")
    except metadata.PackageNotFoundError:  # run from a source tree
        return f"source {sys.implementation.cache_tag}"
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id")
    return (
        str(commit)
        if commit
        else f"record {sha256((installed.read_text('RECORD') or '').encode()).hexdigest()[:12]}"
    )
