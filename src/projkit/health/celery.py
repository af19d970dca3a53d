"""The check ``celery``: the broker is reachable, a worker responds, and responding workers consume every queue.

The check runs in a thread, because Celery and the clients of its brokers block. Celery is imported there, and only if
it is configured.
"""

import inspect
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
_MAX_QUEUES: Final = 50
_NOT_FOUND: Final = 404  # AMQP's reply code

# A ``celery.Celery`` or an object with its methods, or a function that returns one.
CeleryApp = Any


def celery_check(celery_app: CeleryApp | None, broker_url: str | None) -> HealthCheck:
    """Create the check of the host's app, or of a broker with only Celery's default queue.

    Raises:
        ConfigurationError: Celery is not installed, or ``celery_app`` is neither an app nor a function.
    """
    if find_spec("celery") is None:
        raise ConfigurationError(
            "PROJKIT_CELERY_BROKER_URL or celery_app is set, but Celery is not installed; "
            'install it with: pip install "projkit[celery]"'
        )
    if celery_app is not None and (
        isinstance(celery_app, type) or not (_is_app(celery_app) or callable(celery_app))
    ):
        raise ConfigurationError(
            f"celery_app must be a celery.Celery or a function that returns one, not {_name(celery_app)}"
        )
    probe = CeleryProbe(_app_factory(celery_app, broker_url or ""))
    return HealthCheck("celery", probe.check, timeout=TIMEOUT_SECONDS, period=PERIOD_SECONDS)


class CeleryProbe:
    """The check's access to a broker and its workers. A check blocks its thread, usually for about two seconds."""

    def __init__(self, create_app: Callable[[], Any]) -> None:
        self._create_app = create_app
        self._app: Any = None

    def check(self) -> Mapping[str, Any]:
        """Return the number of responding workers, and the depth and consumers of each queue.

        Raises:
            CheckFailedError: the broker is unavailable, no worker responds, or a queue has no responding consumer.
        """
        if self._app is None:
            app = self._create_app()
            if not _is_app(app):
                if inspect.iscoroutine(app):
                    app.close()  # which will not be awaited
                raise CheckFailedError(
                    f"celery_app returned a {type(app).__name__} instead of a celery.Celery"
                )
            self._app = app
        app = self._app
        try:
            with app.connection_for_read(connect_timeout=_CONNECT_SECONDS) as connection:
                connection.ensure_connection(max_retries=0)
                replies = (
                    app.control.inspect(timeout=_REPLY_SECONDS, connection=connection).active_queues() or {}
                )
                consumers = Counter(queue["name"] for queues in replies.values() for queue in queues or ())
                names = sorted({*app.amqp.queues, *consumers})[:_MAX_QUEUES]
                queues = {name: _queue(connection, name, consumers[name]) for name in names}
        except CheckFailedError:
            raise
        except Exception as error:  # each broker's client has its own exceptions
            raise CheckFailedError(f"broker unavailable ({type(error).__name__})") from error
        data = {"workers": len(replies), "queues": queues}
        if not replies:
            raise CheckFailedError(f"no worker responded within {_REPLY_SECONDS:g} s", data)
        if unconsumed := [name for name, queue in queues.items() if not queue["answering"]]:
            raise CheckFailedError(f"no responding worker consumes {', '.join(unconsumed)}", data)
        return data


def _queue(connection: Any, name: str, answering: int) -> dict[str, Any]:
    """Return the depth of a queue, its consumers as the broker counts them, and the responding workers among them.

    An AMQP broker also counts a worker that hangs; other brokers do not count consumers, so the responding workers are
    reported instead.
    """
    counts_consumers = connection.transport.driver_type == "amqp"
    channel = connection.channel()
    try:
        declared = channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors as error:
        # An empty queue does not exist in Redis, where it is a list.
        if getattr(error, "reply_code", getattr(error, "code", None)) not in {_NOT_FOUND, str(_NOT_FOUND)}:
            raise
        depth, consumers = 0, 0
    else:
        depth, consumers = declared.message_count, declared.consumer_count
    finally:
        channel.close()
    return {"depth": depth, "consumers": consumers if counts_consumers else answering, "answering": answering}


def _app_factory(celery_app: CeleryApp | None, broker_url: str) -> Callable[[], Any]:
    if celery_app is None:
        return lambda: import_module("celery").Celery(broker=broker_url, set_as_current=False)
    return (lambda: celery_app) if _is_app(celery_app) else celery_app


def _name(candidate: object) -> str:
    return (
        f"the class {candidate.__name__}"
        if isinstance(candidate, type)
        else f"a {type(candidate).__module__}.{type(candidate).__qualname__}"
    )


def _is_app(candidate: object) -> bool:
    return hasattr(candidate, "connection_for_read")
