"""`projkit keys`: create, list, rotate and retire keys while servers run."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from projkit import Settings
from projkit.auth.keys import key_list, load_keys
from projkit.auth.keys_file import new_key, read_jwks, write_keys_file
from projkit.auth.tokens import TokenIssuer, TokenVerifier
from projkit.errors import InvalidTokenError
from tests.cli.conftest import Run
from tests.cli.running import serving
from tests.conftest import SECRET

ALGORITHMS = ("EdDSA", "ES256", "RS256", "HS256")
DAY = timedelta(days=1).total_seconds()


@pytest.fixture
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """KEYS_FILE with one key."""
    path = tmp_path / "keys.json"
    write_keys_file(path, [new_key("EdDSA")], replace=False)
    monkeypatch.setenv("PROJKIT_KEYS_FILE", str(path))
    return path


def kids(path: Path) -> list[str]:
    """Return the key ids in a file."""
    return [key["kid"] for key in read_jwks(path)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_new_prints_a_usable_key(run: Run, algorithm: str) -> None:
    """keys new prints a private JWK Set with one key, and nothing else."""
    printed = json.loads(run("keys", "new", "--alg", algorithm).stdout)
    assert key_list(printed["keys"], production=True).newest.algorithm == algorithm
    assert len(printed["keys"]) == 1


def test_new_signs_with_eddsa_by_default(run: Run) -> None:
    """Every key is new, and its algorithm is EdDSA by default."""
    first, second = (json.loads(run("keys", "new").stdout)["keys"][0] for _ in range(2))
    assert first["alg"] == second["alg"] == "EdDSA"
    assert first["d"] != second["d"]
    assert first["kid"] != second["kid"]


def test_new_creates_a_private_file(run: Run, tmp_path: Path) -> None:
    """keys new --file creates the file with mode 0600 and never overwrites one."""
    path = tmp_path / "made.json"
    umask = os.umask(0)
    try:
        run("keys", "new", "--file", str(path))
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    said = run("keys", "new", "--file", str(path), expect=1).stderr
    assert "already exists; add a key to it with: projkit keys rotate" in said
    assert path.read_bytes() == before
    assert "cannot write" in run("keys", "new", "--file", str(tmp_path / "none" / "k.json"), expect=1).stderr
    run("keys", "new", "--alg", "none", expect=2)


def test_created_file_is_accepted_in_production(run: Run, tmp_path: Path) -> None:
    """A file from keys new is accepted in production."""
    path = tmp_path / "made.json"
    run("keys", "new", "--file", str(path))
    assert load_keys(Settings(env="production", keys_file=path)).newest.algorithm == "EdDSA"


def test_list(run: Run, keys_file: Path) -> None:
    """keys list shows each key, its creation and expiry times and its state, but nothing secret."""
    (old,) = read_jwks(keys_file)
    expired = {**new_key("ES256"), "exp": 1_700_000_000}
    undated = {name: value for name, value in new_key("HS256").items() if name != "iat"}
    write_keys_file(keys_file, [old, expired, undated], replace=True)
    said = run("keys", "list", "--json")
    found = json.loads(said.stdout)
    assert [each["state"] for each in found] == ["verifies", "expired", "signs"]
    assert [each["alg"] for each in found] == ["EdDSA", "ES256", "HS256"]
    assert [each["kid"] for each in found] == kids(keys_file)
    assert found[1]["expires_at"] == "2023-11-14T22:13:20Z"
    assert found[2]["made_at"] is None
    table = run("keys", "list").stdout
    for each in found:
        assert each["kid"] in table
        assert each["state"] in table
    for secret in (old["d"], expired["d"], undated["k"]):
        assert secret not in table + said.stdout


@pytest.mark.parametrize("algorithm", [None, *ALGORITHMS])
def test_rotate(run: Run, keys_file: Path, algorithm: str | None) -> None:
    """keys rotate adds a key that signs from now on; tokens of the old key remain valid."""
    settings = Settings(keys_file=keys_file)
    old = TokenIssuer(load_keys(settings), settings).issue("alice", [])
    said = run("keys", "rotate", *(() if algorithm is None else ("--alg", algorithm)))
    keys = load_keys(settings)
    assert said.stdout == f"{keys.newest.kid}\n"
    assert "projkit keys retire --older-than 86400s" in said.stderr
    assert keys.newest.algorithm == (algorithm or "EdDSA")
    assert keys_file.stat().st_mode & 0o777 == 0o600
    verifier = TokenVerifier(keys, settings)
    assert verifier.verify(old).subject == "alice"
    assert verifier.verify(TokenIssuer(keys, settings).issue("bob", [])).subject == "bob"


def test_rotate_the_development_keys(run: Run, tmp_path: Path) -> None:
    """Without KEYS_FILE the development key is rotated, and production rejects the new one as well."""
    run("keys", "rotate")
    path = tmp_path / "projkit-keys.json"
    assert len(kids(path)) == 2
    run("keys", "retire", kids(path)[0])
    production: dict[str, str] = {"PROJKIT_ENV": "production", "PROJKIT_KEYS_FILE": str(path)}
    assert "generated for development" in run("token", "--subject", "a", expect=1, **production).stderr


def test_retire(run: Run, keys_file: Path) -> None:
    """keys retire removes a key and invalidates its tokens, but never removes the signing key."""
    settings = Settings(keys_file=keys_file)
    old = TokenIssuer(load_keys(settings), settings).issue("alice", [])
    (first,) = kids(keys_file)
    said = run("keys", "retire", first, expect=1).stderr
    assert "is the signing key; add a new one first with: projkit keys rotate" in said
    second = run("keys", "rotate").stdout.strip()
    assert run("keys", "retire", first).stdout == f"{first}\n"
    assert kids(keys_file) == [second]
    with pytest.raises(InvalidTokenError):
        TokenVerifier(load_keys(settings), settings).verify(old)
    assert "projkit keys list" in run("keys", "retire", first, expect=1).stderr


def test_retire_replaced_keys(run: Run, keys_file: Path) -> None:
    """--older-than counts from the time at which a key was replaced, because it signed until then."""
    now = int(time.time())
    made = [{**new_key("EdDSA"), "iat": int(now - days * DAY)} for days in (400, 30, 3)]
    undated = {name: value for name, value in new_key("HS256").items() if name != "iat"}
    write_keys_file(keys_file, [undated, *made, new_key("EdDSA")], replace=True)
    names = kids(keys_file)
    assert run("keys", "retire", "--older-than", "500d").stdout == ""
    # The second key was replaced 30 days ago, the first one, of which nothing is known, before that.
    assert run("keys", "retire", "--older-than", "10d").stdout.split() == names[:2]
    assert run("keys", "retire", "--older-than", "1d").stdout.split() == names[2:3]
    assert run("keys", "retire", "--older-than", "1d").stdout == ""
    assert kids(keys_file) == names[3:]


def test_retire_expired_keys(run: Run, keys_file: Path) -> None:
    """Expired keys are removed by the next retirement."""
    expired = {**new_key("EdDSA"), "exp": 1_700_000_000}
    write_keys_file(keys_file, [expired, *read_jwks(keys_file)], replace=True)
    assert run("keys", "retire", "--older-than", "1d").stdout.split() == [expired["kid"]]


@pytest.mark.parametrize(
    "arguments", [(), ("a", "--older-than", "1d"), ("--older-than", "soon"), ("--older-than", "0d")]
)
def test_wrong_use_of_retire(run: Run, keys_file: Path, arguments: tuple[str, ...]) -> None:
    """Either a key or an age is required."""
    run("keys", "retire", *arguments, expect=2)


@pytest.mark.parametrize("arguments", [("list",), ("rotate",), ("retire", "secret")])
def test_secret_cannot_be_rotated(run: Run, arguments: tuple[str, ...]) -> None:
    """With SECRET the commands explain how to switch to a key file."""
    said = run("keys", *arguments, expect=1, PROJKIT_SECRET=SECRET).stderr
    assert "PROJKIT_SECRET is a single key" in said
    assert "projkit keys new --file keys.json" in said


@pytest.mark.parametrize("arguments", [("list",), ("rotate",), ("rotate", "--alg", "HS256"), ("retire", "a")])
@pytest.mark.parametrize("content", [None, "", '{"keys":[]}', '{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}'])
def test_invalid_file_is_unchanged(
    run: Run, keys_file: Path, content: str | None, arguments: tuple[str, ...]
) -> None:
    """An invalid file is reported and left unchanged."""
    if content is None:
        keys_file.unlink()
    else:
        keys_file.write_text(content)
    said = run("keys", *arguments, expect=1).stderr
    assert str(keys_file) in said
    assert keys_file.exists() == (content is not None)
    assert content is None or keys_file.read_text() == content
    assert [file.name for file in keys_file.parent.iterdir() if file.name.startswith(".")] == []


def test_workers_follow_without_a_restart(keys_file: Path, run: Run) -> None:
    """A new key signs and verifies on every worker at once, and a retired one is rejected by all."""
    settings = Settings(keys_file=keys_file)

    def statuses(url: str, token: str) -> set[int]:
        # A connection each, so that all workers are asked.
        headers: dict[str, Any] = {"Authorization": f"Bearer {token}", "Connection": "close"}
        return {httpx2.get(f"{url}/api/v1/projects", headers=headers).status_code for _ in range(12)}

    with serving("--workers", "2", "--no-access-log", PROJKIT_KEYS_FILE=str(keys_file)) as (url, old):
        assert statuses(url, old) == {200}
        for algorithm in ("ES256", "HS256"):
            run("keys", "rotate", "--alg", algorithm)
            # Not a moment's wait: a worker that does not know the key looks at the file.
            assert statuses(url, TokenIssuer(load_keys(settings), settings).issue("demo", ["admin"])) == {200}
            assert statuses(url, old) == {200}
        shown = httpx2.get(f"{url}/.well-known/jwks.json").json()["keys"]
        assert [key["kid"] for key in shown] == kids(keys_file)[:2]
        assert not any({"d", "k"} & key.keys() for key in shown)
        run("keys", "retire", kids(keys_file)[0])
        time.sleep(0.2)
        assert statuses(url, old) == {401}
