"""The health check of running, paused and stopped Celery workers, over RabbitMQ and over Redis."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from uuid import uuid4

import celery
import pytest

from projkit.health.celery import celery_check
from tests.health.conftest import run_checks
from tests.redis_servers import alone, running
from tests.services import missing

pytestmark = pytest.mark.anyio
RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"
_WORKER = """
import sys
from celery import Celery
broker, namespace, queue = sys.argv[1:]
app = Celery(broker=broker)
app.conf.update(control_exchange=namespace, worker_hijack_root_logger=False)
quiet = ["--without-gossip", "--without-mingle", "-l", "ERROR"]
app.worker_main(["worker", "--pool=solo", "-Q", queue, "-n", queue, *quiet])
"""


class Broker:
    """A broker with queue names of its own, and its workers."""

    def __init__(self, url: str) -> None:
        self.namespace = f"projkit-{uuid4().hex}"
        self.queues = [f"{self.namespace}-{name}" for name in ("first", "second")]
        self.url = url
        self.app = celery.Celery(broker=url, set_as_current=False)
        self.app.conf.update(
            control_exchange=self.namespace,
            task_default_queue=self.queues[0],
            task_queues={name: {"exchange": name, "routing_key": name} for name in self.queues},
        )
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, queue: str) -> subprocess.Popen[bytes]:
        """Start a worker of one queue."""
        command = [sys.executable, "-W", "ignore", "-c", _WORKER, self.url, self.namespace, queue]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Stop the workers and remove their queues."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
        with self.app.connection_for_write() as connection:
            for name in self.queues:
                self._try(connection, "queue_delete", name)
            for name in (*self.queues, f"{self.namespace}.pidbox", f"reply.{self.namespace}.pidbox"):
                self._try(connection, "exchange_delete", name)
        self.app.close()

    @staticmethod
    def _try(connection: Any, method: str, name: str) -> None:
        with suppress(*connection.channel_errors), connection.channel() as channel:
            getattr(channel, method)(name)


@pytest.fixture(params=["rabbitmq", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Each kind of broker."""
    with ExitStack() as stack:
        if request.param == "redis":
            opened = Broker(stack.enter_context(running(alone)).url)
        else:
            opened = Broker(RABBITMQ)
            try:
                with opened.app.connection_for_write(connect_timeout=5) as connection:
                    connection.ensure_connection(max_retries=0)
            except OSError as error:
                missing(f"RabbitMQ does not answer on 127.0.0.1:5672 ({error}); see scripts/services")
        stack.callback(opened.close)
        yield opened


async def test_workers(broker: Broker) -> None:
    """The check reports no worker, a queue without one, paused workers and lost ones, and each recovery."""
    first, second = broker.queues
    for _ in range(3):
        broker.app.send_task("nobody.knows.it", queue=second)
    async with run_checks([celery_check(broker.app, None)]) as checks:
        seen = await checks.until("celery", "error", "no worker responded")
        assert seen.data is not None
        assert seen.data["queues"][second] == {"depth": 3, "consumers": 0, "answering": 0}
        one = broker.start(first)
        seen = await checks.until("celery", "error", f"no responding worker consumes {second}")
        other = broker.start(second)
        seen = await checks.until("celery", "ok")
        assert seen.data is not None
        assert seen.data["workers"] == 2
        assert seen.data["queues"][first] == {"depth": 0, "consumers": 1, "answering": 1}
        print(f"{broker.url.partition(':')[0]}: a check takes {seen.latency_ms:.0f} ms")  # noqa: T201
        other.send_signal(signal.SIGSTOP)
        await checks.until("celery", "error", f"consumes {second}")
        one.send_signal(signal.SIGSTOP)
        await checks.until("celery", "error", "no worker responded")
        one.send_signal(signal.SIGCONT)
        other.send_signal(signal.SIGCONT)
        await checks.until("celery", "ok")
        for worker in (one, other):
            worker.terminate()
        await checks.until("celery", "error", "no worker responded")
