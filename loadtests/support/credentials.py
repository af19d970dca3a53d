"""Credentials: tokens from the environment or a user who logs in, as Bearer tokens or in cookies."""

import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Final

from gevent.lock import RLock

from support.client import Client, Response
from support.options import PREFIX

SAME_ORIGIN: Final = {"Sec-Fetch-Site": "same-origin"}  # as browsers send it with same-origin requests
COOKIE: Final = os.environ.get("PROJKIT_LOAD_COOKIE", "auth_token")
_CSRF_HEADER: Final = os.environ.get("PROJKIT_LOAD_CSRF_HEADER", "X-CSRF-Token")
_CSRF_SECONDS: Final = 600.0
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REFRESH_EARLY_SECONDS: Final = 60.0
_RETRY_AFTER_FAILURE_SECONDS: Final = 5.0


class Token:
    """A fixed Bearer token."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}

    def headers(self, method: str) -> dict[str, str]:
        """Return the headers of a request with this method."""
        del method
        return dict(self._headers)


class CookieToken:
    """A token in a cookie, as a browser sends it. Unsafe methods carry the CSRF token."""

    def __init__(self, client: Client, token: str) -> None:
        self._client, self._lock = client, RLock()
        self._cookies, self._csrf, self._due = {COOKIE: token}, "", 0.0

    def headers(self, method: str) -> dict[str, str]:
        """Return the headers of a request with this method; fetch a CSRF token outside the schedule if it is due.

        Raises:
            CredentialError: the server rejected the request for the CSRF token.
        """
        if method in _SAFE:
            return {"Cookie": _cookie(self._cookies)}
        with self._lock:
            if time.monotonic() > self._due:
                self._fetch_csrf_token()
            return {"Cookie": _cookie(self._cookies), **SAME_ORIGIN, _CSRF_HEADER: self._csrf}

    def _fetch_csrf_token(self) -> None:
        response = self._client.send("GET", f"{PREFIX}/auth/csrf", self.headers("GET"))
        if response.status != 200:
            raise CredentialError(f"GET /auth/csrf returned {response.reason}")
        self._cookies |= response.cookies
        self._csrf, self._due = response.json()["csrf_token"], time.monotonic() + _CSRF_SECONDS


def _cookie(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


class Session:
    """The tokens or cookies of one login."""

    def __init__(self, response: Response) -> None:
        content = response.json()
        self.refresh_token: str = content.get("refresh_token") or ""
        self.due = time.monotonic() + max(content["expires_in"] - _REFRESH_EARLY_SECONDS, 1.0)
        self._bearer: str = content.get("access_token") or ""
        self._cookies, self._csrf = response.cookies, content["csrf_token"]

    def headers(self, method: str) -> dict[str, str]:
        """Return the headers of a request with this method."""
        if self._bearer:
            return {"Authorization": f"Bearer {self._bearer}"}
        csrf = {} if method in _SAFE else {**SAME_ORIGIN, _CSRF_HEADER: self._csrf}
        return {"Cookie": _cookie(self._cookies), **csrf}

    def refresh_body(self) -> dict[str, str]:
        """Return the body of ``POST /auth/refresh``: empty if the token is in a cookie."""
        return {"refresh_token": self.refresh_token} if self.refresh_token else {}


class LoggedInUser:
    """A user who stays logged in: the session is refreshed shortly before its access token expires."""

    def __init__(self, client: Client, login: Mapping[str, str]) -> None:
        self._client, self._login = client, login
        self._lock, self._session = RLock(), None
        self._failure, self._failed_until = "", 0.0

    _session: Session | None

    def headers(self, method: str) -> dict[str, str]:
        """Return the headers of a request with this method; log in or refresh outside the schedule if due."""
        with self._lock:
            if self._session is None:
                self._session = self._log_in()
            elif time.monotonic() > self._session.due:
                held = self._session
                self._session = None  # if the refresh fails, the next call logs in
                self._session = open_session(
                    self._client, "refresh", held.headers("POST"), held.refresh_body()
                )
            return self._session.headers(method)

    def log_out(self) -> None:
        """End the session, if there is one."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                self._client.send("POST", f"{PREFIX}/auth/logout", session.headers("POST"))

    def _log_in(self) -> Session:
        if time.monotonic() < self._failed_until:
            raise CredentialError(self._failure)
        try:
            return open_session(self._client, "login", {}, dict(self._login))
        except CredentialError as error:
            # Otherwise every iteration would retry and use up the login attempts that the server allows.
            self._failure, self._failed_until = str(error), time.monotonic() + _RETRY_AFTER_FAILURE_SECONDS
            raise


Credential = Token | CookieToken | Session | LoggedInUser


class CredentialError(Exception):
    """A login was rejected, or the environment provides no usable credentials."""


def open_session(client: Client, action: str, headers: Mapping[str, str], body: Mapping[str, str]) -> Session:
    """Log in or refresh.

    Raises:
        CredentialError: the server rejected it.
    """
    # A Bearer token is not needed beside a refresh token, and an expired one would be rejected.
    kept = {name: value for name, value in headers.items() if name != "Authorization"}
    response = client.send("POST", f"{PREFIX}/auth/{action}", kept, dict(body))
    if response.status != 200:
        raise CredentialError(f"POST /auth/{action} returned {response.reason}")
    return Session(response)


def by_cookies() -> bool:
    """Return whether credentials are sent in cookies.

    Raises:
        CredentialError: PROJKIT_LOAD_TRANSPORT is invalid.
    """
    transport = os.environ.get("PROJKIT_LOAD_TRANSPORT", "bearer")
    if transport not in {"bearer", "cookies"}:
        raise CredentialError("PROJKIT_LOAD_TRANSPORT must be bearer or cookies")
    return transport == "cookies"


def login_body() -> dict[str, str] | None:
    """Return the body of ``POST /auth/login``; None if the environment names no user.

    Raises:
        CredentialError: PROJKIT_LOAD_TRANSPORT is invalid.
    """
    user, password = os.environ.get("PROJKIT_LOAD_USER"), os.environ.get("PROJKIT_LOAD_PASSWORD")
    kind = "cookie" if by_cookies() else "body"
    if not user or not password:
        return None
    return {"username": user, "password": password, "transport": kind}


class CredentialPool:
    """The credentials that iterations choose from: the first ones more often, as a few users do most of the work."""

    def __init__(self, client: Client) -> None:
        self.login = login_body()
        self.tokens = tokens = os.environ.get("PROJKIT_LOAD_TOKEN", "").split()
        if not all(token.isascii() and token.isprintable() for token in tokens):
            raise CredentialError("PROJKIT_LOAD_TOKEN contains characters that are not allowed in a token")
        self.by_cookie = by_cookies()
        self._all: list[Credential] = [
            CookieToken(client, token) if self.by_cookie else Token(token) for token in tokens
        ]
        if not self._all and self.login is not None:
            self._all = [LoggedInUser(client, self.login)]
        self._weights = [1 / (rank + 1) for rank in range(len(self._all))]
        self.seen: dict[Credential, list[str]] = {}  # ids of projects that no iteration changes

    @property
    def available(self) -> bool:
        """Whether there are any."""
        return bool(self._all)

    @property
    def all(self) -> Sequence[Credential]:
        """All of them, the most frequently chosen one first."""
        return self._all

    def log_out(self) -> None:
        """End the sessions that were opened for all iterations."""
        for each in self._all:
            if isinstance(each, LoggedInUser):
                each.log_out()

    def choose(self) -> Credential:
        """Choose one at random, by weight.

        Raises:
            CredentialError: the environment provides no credentials.
        """
        if not self._all:
            raise CredentialError("set PROJKIT_LOAD_TOKEN, or PROJKIT_LOAD_USER and PROJKIT_LOAD_PASSWORD")
        return random.choices(self._all, self._weights)[0]
