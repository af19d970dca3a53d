"""Who asks: tokens of the environment, or a user who logs in; as Bearer or in cookies."""

import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Final

from gevent.lock import RLock

from support.client import Answer, Client
from support.options import PREFIX

SAME_ORIGIN: Final = {"Sec-Fetch-Site": "same-origin"}  # what a browser says of a page's own requests
COOKIE: Final = os.environ.get("PROJKIT_LOAD_COOKIE", "auth_token")
_CSRF_HEADER: Final = os.environ.get("PROJKIT_LOAD_CSRF_HEADER", "X-CSRF-Token")
_CSRF_SECONDS: Final = 600.0
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_EARLY_SECONDS: Final = 60.0
_REFUSED_SECONDS: Final = 5.0


class Token:
    """One Bearer token, for as long as it lasts."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}

    def headers(self, method: str) -> dict[str, str]:
        """What a request with this method carries."""
        del method
        return dict(self._headers)


class CookieToken:
    """One token in a cookie, as a browser sends it: writes carry the proof that they are the page's own."""

    def __init__(self, client: Client, token: str) -> None:
        self._client, self._lock = client, RLock()
        self._cookies, self._csrf, self._due = {COOKIE: token}, "", 0.0

    def headers(self, method: str) -> dict[str, str]:
        """What a request with this method carries; the proof is asked for where it is due, outside of the schedule.

        Raises:
            CredentialError: it is refused.
        """
        if method in _SAFE:
            return {"Cookie": _cookie(self._cookies)}
        with self._lock:
            if time.monotonic() > self._due:
                self._ask_for_proof()
            return {"Cookie": _cookie(self._cookies), **SAME_ORIGIN, _CSRF_HEADER: self._csrf}

    def _ask_for_proof(self) -> None:
        answer = self._client.send("GET", f"{PREFIX}/auth/csrf", self.headers("GET"))
        if answer.status != 200:
            raise CredentialError(f"GET /auth/csrf was answered with {answer.reason}")
        self._cookies |= answer.cookies
        self._csrf, self._due = answer.json()["csrf_token"], time.monotonic() + _CSRF_SECONDS


def _cookie(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


class Session:
    """A log-in's tokens or cookies."""

    def __init__(self, answer: Answer) -> None:
        content = answer.json()
        self.refresh_token: str = content.get("refresh_token") or ""
        self.due = time.monotonic() + max(content["expires_in"] - _EARLY_SECONDS, 1.0)
        self._bearer: str = content.get("access_token") or ""
        self._cookies, self._csrf = answer.cookies, content["csrf_token"]

    def headers(self, method: str) -> dict[str, str]:
        """What a request with this method carries."""
        if self._bearer:
            return {"Authorization": f"Bearer {self._bearer}"}
        proof = {} if method in _SAFE else {**SAME_ORIGIN, _CSRF_HEADER: self._csrf}
        return {"Cookie": _cookie(self._cookies), **proof}

    def refresh_body(self) -> dict[str, str]:
        """For ``POST /auth/refresh``: empty where the token is in its cookie."""
        return {"refresh_token": self.refresh_token} if self.refresh_token else {}


class LoggedIn:
    """A user who stays logged in: refreshes the session shortly before its access token ends."""

    def __init__(self, client: Client, login: Mapping[str, str]) -> None:
        self._client, self._login = client, login
        self._lock, self._session = RLock(), None
        self._refused, self._refused_until = "", 0.0

    _session: Session | None

    def headers(self, method: str) -> dict[str, str]:
        """What a request with this method carries; logs in or refreshes where that is due, outside of the schedule."""
        with self._lock:
            if self._session is None:
                self._session = self._log_in()
            elif time.monotonic() > self._session.due:
                held = self._session
                self._session = None  # where the refresh fails, the next one logs in
                self._session = open_session(
                    self._client, "refresh", held.headers("POST"), held.refresh_body()
                )
            return self._session.headers(method)

    def log_out(self) -> None:
        """Ends the session, if there is one."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                self._client.send("POST", f"{PREFIX}/auth/logout", session.headers("POST"))

    def _log_in(self) -> Session:
        if time.monotonic() < self._refused_until:
            raise CredentialError(self._refused)
        try:
            return open_session(self._client, "login", {}, dict(self._login))
        except CredentialError as error:
            # Every walk that is due would try again, and use up what attempts the server allows.
            self._refused, self._refused_until = str(error), time.monotonic() + _REFUSED_SECONDS
            raise


Credential = Token | CookieToken | Session | LoggedIn


class CredentialError(Exception):
    """The log-in was refused, or there is nobody to log in."""


def open_session(client: Client, action: str, headers: Mapping[str, str], body: Mapping[str, str]) -> Session:
    """Logs in or refreshes.

    Raises:
        CredentialError: with what the server said.
    """
    # A Bearer beside a refresh token is of no use, and an expired one would be in the way.
    kept = {name: value for name, value in headers.items() if name != "Authorization"}
    answer = client.send("POST", f"{PREFIX}/auth/{action}", kept, dict(body))
    if answer.status != 200:
        raise CredentialError(f"POST /auth/{action} was answered with {answer.reason}")
    return Session(answer)


def by_cookies() -> bool:
    """Whether credentials go as a browser's do.

    Raises:
        CredentialError: a transport that is none.
    """
    transport = os.environ.get("PROJKIT_LOAD_TRANSPORT", "bearer")
    if transport not in {"bearer", "cookies"}:
        raise CredentialError("PROJKIT_LOAD_TRANSPORT is bearer or cookies")
    return transport == "cookies"


def login_body() -> dict[str, str] | None:
    """What to log in with; None where the environment names no user.

    Raises:
        CredentialError: a transport that is none.
    """
    user, password = os.environ.get("PROJKIT_LOAD_USER"), os.environ.get("PROJKIT_LOAD_PASSWORD")
    kind = "cookie" if by_cookies() else "body"
    if not user or not password:
        return None
    return {"username": user, "password": password, "transport": kind}


class Callers:
    """Who walks: of several tokens the first ones far more often, as a few people do most of the work."""

    def __init__(self, client: Client) -> None:
        self.login = login_body()
        tokens = os.environ.get("PROJKIT_LOAD_TOKEN", "").split()
        if not all(token.isascii() and token.isprintable() for token in tokens):
            raise CredentialError("PROJKIT_LOAD_TOKEN holds characters that no token has")
        self.by_cookie = by_cookies()  # so that requests are held to the rules for browsers
        self._known: list[Credential] = [
            CookieToken(client, token) if self.by_cookie else Token(token) for token in tokens
        ]
        if not self._known and self.login is not None:
            self._known = [LoggedIn(client, self.login)]
        self._weights = [1 / (rank + 1) for rank in range(len(self._known))]
        self.seen: dict[Credential, list[str]] = {}  # ids of projects that walks leave alone

    @property
    def known(self) -> bool:
        """Whether there is anybody."""
        return bool(self._known)

    @property
    def all(self) -> Sequence[Credential]:
        """Everybody, the one who is chosen most first."""
        return self._known

    def log_out(self) -> None:
        """Ends the sessions that were opened for all walks."""
        for each in self._known:
            if isinstance(each, LoggedIn):
                each.log_out()

    def choose(self) -> Credential:
        """One of them.

        Raises:
            CredentialError: the environment names nobody.
        """
        if not self._known:
            raise CredentialError("set PROJKIT_LOAD_TOKEN, or PROJKIT_LOAD_USER and PROJKIT_LOAD_PASSWORD")
        return random.choices(self._known, self._weights)[0]
