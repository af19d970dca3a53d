"""How logins end, for whoever counts them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from projkit.errors import RateLimitedError, UnauthenticatedError, UnavailableError

# Counts a login by method (``password`` or ``oidc``) and outcome: ``succeeded``, or one of :func:`count_failure`'s.
CountLogin = Callable[[str, str], None]
# Counts a refresh: ``rotated``, ``replayed`` (a retry), ``reused`` (by one of two who have the token), ``refused`` or
# ``unavailable``.
CountRefresh = Callable[[str], None]


@contextmanager
def count_failure(count: CountLogin, method: str) -> Iterator[None]:
    """Counts what is raised: ``failed``, ``limited``, ``unavailable``, or ``error`` where nobody expected it."""
    try:
        yield
    except UnauthenticatedError:
        count(method, "failed")
        raise
    except RateLimitedError:
        count(method, "limited")
        raise
    except UnavailableError:
        count(method, "unavailable")
        raise
    except Exception:
        count(method, "error")
        raise
