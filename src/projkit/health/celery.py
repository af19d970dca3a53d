"""The check ``celery``: the broker can be reached, a worker answers, each queue is consumed by one that does.

Everything here runs in a thread, since Celery and its brokers' clients block. Celery is imported there, and only where
it is configured.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from projkit.errors import ConfigurationError
from projkit.health.checks import CheckFailedError, HealthCheck

TIMEOUT_SECONDS: Final = 5.0
PERIOD_SECONDS: Final = 15.0
_CONNECT_SECONDS: Final = 2.0
_REPLY_SECONDS: Final = 1.5
_MOST_QUEUES: Final = 50
_MISSING: Final = 404

# Something with the methods of a ``celery.Celery``, or a function that gives one.
CeleryApp = Any


def celery_check(given: CeleryApp | None, broker_url: str | None) -> HealthCheck:
    """The check of the host's app, or of a broker alone, whose only queue is then Celery's default one.

    Raises:
        ConfigurationError: Celery is not installed, or ``given`` is neither an app nor a function.
    """
    if find_spec("celery") is None:
        raise ConfigurationError(
            "PROJKIT_CELERY_BROKER_URL or celery_app is given, but Celery is not installed; "
            'install it with: pip install "projkit[celery]"'
        )
    if given is not None and not _is_app(given) and not callable(given):
        raise ConfigurationError(
            f"celery_app must be a celery.Celery or a function that gives one, not {type(given).__name__}"
        )
    probe = CeleryProbe(_maker(given, broker_url or ""))
    return HealthCheck("celery", probe.look, timeout=TIMEOUT_SECONDS, period=PERIOD_SECONDS)


class CeleryProbe:
    """Asks a broker and the workers behind it; blocks, for about two seconds where all is well."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._app: Any = None

    def look(self) -> Mapping[str, Any]:
        """What was found, by queue.

        Raises:
            CheckFailedError: one of the three is not so.
        """
        if self._app is None:
            self._app = self._make()
        app = self._app
        try:
            with app.connection_for_read(connect_timeout=_CONNECT_SECONDS) as connection:
                connection.ensure_connection(max_retries=0)
                replies = (
                    app.control.inspect(timeout=_REPLY_SECONDS, connection=connection).active_queues() or {}
                )
                consumers = Counter(queue["name"] for queues in replies.values() for queue in queues or ())
                names = sorted({*app.amqp.queues, *consumers})[:_MOST_QUEUES]
                queues = {name: _queue(connection, name, consumers[name]) for name in names}
        except CheckFailedError:
            raise
        except Exception as error:  # each broker's client has its own
            raise CheckFailedError(f"the broker does not answer ({type(error).__name__})") from error
        data = {"workers": len(replies), "queues": queues}
        if not replies:
            raise CheckFailedError(f"no worker answers within {_REPLY_SECONDS:g} s", data)
        if unread := [name for name, queue in queues.items() if not queue["answering"]]:
            raise CheckFailedError(f"no worker that answers consumes {', '.join(unread)}", data)
        return data


def _queue(connection: Any, name: str, answering: int) -> dict[str, Any]:
    """How much waits in a queue, and how many consume it: by the broker's count, and of the workers that answer.

    A worker that hangs is still a consumer to an AMQP broker; other brokers count none.
    """
    counts = connection.transport.driver_type == "amqp"
    channel = connection.channel()
    try:
        found = channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors as error:
        # A Redis list that is empty is not there either.
        if getattr(error, "reply_code", getattr(error, "code", None)) not in {_MISSING, str(_MISSING)}:
            raise
        depth, consumers = 0, 0
    else:
        depth, consumers = found.message_count, found.consumer_count
    finally:
        channel.close()
    return {"depth": depth, "consumers": consumers if counts else answering, "answering": answering}


def _maker(given: CeleryApp | None, broker_url: str) -> Callable[[], Any]:
    if given is None:
        return lambda: import_module("celery").Celery(broker=broker_url, set_as_current=False)
    return (lambda: given) if _is_app(given) else given


def _is_app(given: object) -> bool:
    return hasattr(given, "connection_for_read")
