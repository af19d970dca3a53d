"""Threads and database connections of functions that Django's request cycle does not manage.

Django opens a connection for each thread. At the start and end of a request it closes those that were lost or are too
old (``CONN_MAX_AGE``). The threads in which the kit calls plain functions have no requests of Django.
"""

import asyncio
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext, sync_to_async
from django import db
from django.conf import settings

from projkit.host_calls import Runner, Work, is_coroutine_function, register_thread_policy
from projkit.hosts.django.loop import CallingThread

F = TypeVar("F", bound=Callable[..., Any])


def close_old_connections(function: F) -> F:
    """Decorate a function that uses the ORM outside of Django's requests, such as a health check of the kit.

    Connections that were lost, or are older than ``CONN_MAX_AGE``, are closed before and after each call, so that the
    function recovers with the database. Plain functions that are passed to ``ProjKit`` need no decorator. Coroutine
    functions that use the ORM do.
    """
    if is_coroutine_function(function):

        @wraps(function)
        async def decorated_async(*arguments: Any, **named: Any) -> Any:
            if _has_own_thread():
                return await function(*arguments, **named)
            async with ThreadSensitiveContext():
                try:
                    return await function(*arguments, **named)
                finally:
                    await sync_to_async(db.connections.close_all)()  # the thread ends with the context

        return decorated_async  # type: ignore[return-value]  # it has the function's signature

    @wraps(function)
    def decorated(*arguments: Any, **named: Any) -> Any:
        return call_with_connections(partial(function, *arguments, **named))

    return decorated  # type: ignore[return-value]  # it has the function's signature


def call_with_connections(work: Work) -> Any:
    """Call ``work``; close unusable and old connections of this thread before and after it."""
    if not settings.configured:
        return work()
    db.reset_queries()
    close_unusable_connections()
    try:
        return work()
    finally:
        close_unusable_connections()


def close_unusable_connections() -> None:
    """Close the connections of this thread that were lost or are too old, except in a transaction."""
    for connection in db.connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


class _DjangoThreads:
    """Runs plain functions in the thread of Django's request or test, if there is one."""

    def find_runner(self) -> Runner | None:
        return _run_in_own_thread if _has_own_thread() else None

    def manage(self, work: Work) -> Work:
        return partial(call_with_connections, work)


def _has_own_thread() -> bool:
    """Return whether asgiref has a thread for this context; otherwise it would use one thread for everything."""
    executor = getattr(AsyncToSync.executors, "current", None)
    if isinstance(executor, CallingThread) and executor.closed:
        return False  # of a request over WSGI that has ended, in a task that it started
    return (
        executor is not None
        or SyncToAsync.thread_sensitive_context.get(None) is not None
        or asyncio.get_running_loop() in AsyncToSync.loop_thread_executors
    )


async def _run_in_own_thread(work: Work) -> Any:
    return await sync_to_async(work, thread_sensitive=True)()


register_thread_policy(_DjangoThreads())
