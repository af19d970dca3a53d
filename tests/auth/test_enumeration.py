"""A login does not reveal which users exist: it costs the same work and gets the same response."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from projkit import Principal, ProjKit
from projkit.auth import passwords
from tests.auth.asgi_client import Answer, ask
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, PASSWORD, add_user, auth_services, log_in

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("costly_passwords")]

VOLATILE: Final = {"x-request-id", "x-process-time", "server-timing"}


class Work:
    """A hasher that counts its operations and returns their real results."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verified: list[str] = []
        self.hashed = 0
        hasher = passwords.HASHER

        class Counting:
            """The hasher, with a count before each call."""

            check_needs_rehash = staticmethod(hasher.check_needs_rehash)

            @staticmethod
            def verify(stored: str, password: str) -> bool:
                self.verified.append(stored)
                return hasher.verify(stored, password)

            @staticmethod
            def hash(password: str) -> str:
                self.hashed += 1
                return hasher.hash(password)

        monkeypatch.setattr(passwords, "HASHER", Counting)

    def take(self) -> tuple[list[str], int]:
        """Return the operations since the last call: the parameters of each verified hash, and the number of
        new hashes.
        """
        done = [stored.rpartition("$")[0].rpartition("$")[0] for stored in self.verified], self.hashed
        self.verified, self.hashed = [], 0
        return done


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The hasher's work."""
    return Work(monkeypatch)


def told(answer: Answer) -> tuple[Any, ...]:
    """Return a response without its request id and date."""
    headers = [(name, value) for name, value in answer.headers if name not in VOLATILE]
    return answer.status, headers, answer.body.replace((answer.header("x-request-id") or "").encode(), b"")


async def fill(kit: ProjKit) -> None:
    """Users of every kind."""
    await add_user(kit, "alice")
    await add_user(kit, "disabled")
    await auth_services(kit).users.set_disabled("disabled", disabled=True)
    await add_user(kit, "from elsewhere", None)
    await auth_services(kit).users.end_tokens("told to log in anew")


async def fill_another(kit: ProjKit) -> None:
    """Add a disabled user."""
    await add_user(kit, "disabled as well")
    await auth_services(kit).users.set_disabled("disabled as well", disabled=True)


ATTEMPTS: Final = {
    "a wrong password": ("alice", "wrong password"),
    "an unknown user": ("nobody", PASSWORD),
    "an unknown user and a wrong password": ("nobody", "wrong password"),
    "a disabled user": ("disabled", PASSWORD),
    "a disabled user and a wrong password": ("disabled", "wrong password"),
    "a user without a password": ("from elsewhere", PASSWORD),
    "a user without a name": ("told to log in anew", PASSWORD),
    "a subject that is no name": ("u-1", PASSWORD),
}


async def test_the_same_work_and_the_same_answer(open_kit: OpenKit, work: Work) -> None:
    """A failed login costs one verification with the same parameters and gets an identical response."""
    async with open_kit() as kit:
        await fill(kit)
        work.take()
        assert (await log_in(kit)).status == 200
        good = work.take()
        assert good == (["$argon2id$v=19$m=19456,t=2,p=1"], 0)
        answers = {}
        for name, (username, password) in ATTEMPTS.items():
            answers[name] = told(await log_in(kit, username, password))
            assert work.take() == good, name
        reference = answers["a wrong password"]
        assert reference[0] == 401
        for name, answer in answers.items():
            assert answer == reference, name


async def test_the_same_limits(open_kit: OpenKit, work: Work) -> None:
    """An account is limited after the same number of guesses whether it exists or not, and then nothing is
    hashed.
    """
    async with open_kit(login_limit_account="2/hour", login_limit_address="1000/minute") as kit:
        await fill(kit)
        work.take()
        responses = {}
        for username in ("alice", "nobody", "disabled", "from elsewhere"):
            answers = [told(await log_in(kit, username, "wrong password")) for _ in range(4)]
            assert [answer[0] for answer in answers] == [401, 401, 429, 429]
            responses[username] = [(answer[0], [name for name, _ in answer[1]]) for answer in answers]
            assert len(work.take()[0]) == 2
        # A correct password is counted as a failure too if the login is denied.
        await fill_another(kit)
        answers = [told(await log_in(kit, "disabled as well")) for _ in range(3)]
        assert [answer[0] for answer in answers] == [401, 401, 429]
        assert all(each == responses["alice"] for each in responses.values())


async def test_the_work_of_changing_a_password(open_kit: OpenKit, work: Work) -> None:
    """A login without a password here costs the same verification as one with a wrong password."""
    async with open_kit() as kit:
        await fill(kit)
        work.take()
        for subject in ("alice", "from elsewhere", "nobody"):
            token = auth_services(kit).issuer.issue(subject, ())
            content = {"old_password": "wrong password", "new_password": "a better password"}
            answer = await ask(
                kit, "POST", f"{AUTH}/password", [("authorization", f"Bearer {token}")], json=content
            )
            assert answer.code == "invalid_credentials"
            assert work.take() == (["$argon2id$v=19$m=19456,t=2,p=1"], 0)


HostLogin = Callable[[str, str], Awaitable[Principal | None] | Principal | None]


async def in_a_coroutine(username: str, password: str) -> Principal | None:
    """The asynchronous authenticate function of a host."""
    return at_once(username, password)


def at_once(username: str, password: str) -> Principal | None:
    """A host's users."""
    known = (username, password) == ("alice", PASSWORD)
    return Principal("u-1", frozenset({"projects:read"})) if known else None


@pytest.mark.parametrize("host_login", [in_a_coroutine, at_once])
async def test_users_of_the_host(open_kit: OpenKit, work: Work, host_login: HostLogin) -> None:
    """With the host's authenticate, the kit hashes nothing and denies its disabled users with the same
    response.
    """
    async with open_kit(options={"authenticate": host_login}) as kit:
        await add_user(kit, "carol")
        work.take()
        answer = await log_in(kit)
        assert answer.status == 200
        session = await ask(
            kit, "GET", f"{AUTH}/session", [("authorization", f"Bearer {answer.json()['access_token']}")]
        )
        assert (session.json()["subject"], session.json()["scopes"]) == ("u-1", ["projects:read"])
        wrong = told(await log_in(kit, password="wrong password"))
        assert wrong[0] == 401
        assert told(await log_in(kit, "carol")) == wrong
        await add_user(kit, "Alice of the host", None, subject="u-1")
        await auth_services(kit).users.set_disabled("alice of the host", disabled=True)
        assert told(await log_in(kit)) == wrong
        assert work.take() == ([], 0)
