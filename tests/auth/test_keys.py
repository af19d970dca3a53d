"""The list of keys in force: it follows its file, and never falls back to something weaker."""

import base64
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from projkit import Settings
from projkit.auth import keys as keys_module
from projkit.auth import rotation
from projkit.auth.keys import KeyRing, load_keys
from projkit.auth.keys_file import locked, new_key, read_jwks, write_keys_file
from projkit.auth.tokens import TokenIssuer, TokenVerifier
from projkit.errors import ConfigurationError, InvalidTokenError
from projkit.testing import SECRET as TEST_SECRET


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of one key."""
    path = tmp_path / "keys.json"
    write_keys_file(path, [new_key("EdDSA")], replace=False)
    return path


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key ring that looks at its file each time."""
    monkeypatch.setattr(keys_module, "_CHECK_PERIOD_SECONDS", 0.0)


def secret_key(secret: str, **members: Any) -> dict[str, Any]:
    """A JWK of a secret."""
    encoded = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return {"kty": "oct", "kid": "k", "alg": "HS256", "k": encoded, **members}


@pytest.mark.usefixtures("always_looks")
def test_a_ring_follows_its_file(path: Path) -> None:
    """A new key signs, and its secrets come first, while the old one goes on verifying until it is retired."""
    settings = Settings(keys_file=path)
    ring = KeyRing(settings)
    issuer, verifier = TokenIssuer(ring, settings), TokenVerifier(ring, settings)
    old, (before,) = issuer.issue("alice", []), ring.secrets("csrf")
    rotation.rotate(path, "HS256", development=False)
    assert ring.current.newest.algorithm == "HS256"
    assert ring.secrets("csrf")[1:] == (before,)
    assert [verifier.verify(token).subject for token in (old, issuer.issue("bob", []))] == ["alice", "bob"]
    rotation.retire(path, ring.current.keys[0].kid)
    assert before not in ring.secrets("csrf")
    with pytest.raises(InvalidTokenError):
        verifier.verify(old)


def test_an_unknown_key_makes_it_look_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token by a key that another worker has loaded first is accepted here as well."""
    monkeypatch.setattr(keys_module, "_CHECK_PERIOD_SECONDS", 3600.0)
    settings = Settings(keys_file=path)
    verifier = TokenVerifier(KeyRing(settings), settings)
    rotation.rotate(path, None, development=False)
    token = TokenIssuer(load_keys(settings), settings).issue("alice", [])
    assert verifier.verify(token).subject == "alice"
    assert verifier.verify(token).subject == "alice"


@pytest.mark.usefixtures("always_looks")
@pytest.mark.parametrize("content", [None, "", "{}", '{"keys":[]}'])
def test_an_unusable_file_changes_nothing(
    path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing or invalid file leaves the keys unchanged and is logged once."""
    ring = KeyRing(Settings(keys_file=path))
    before = ring.current
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with caplog.at_level(logging.ERROR):
        assert [ring.current is before for _ in range(3)] == [True] * 3
    assert len(caplog.records) == 1
    assert "keeping the previous keys" in caplog.text


@pytest.mark.usefixtures("always_looks")
def test_the_development_keys_are_followed_too(tmp_path: Path) -> None:
    """Development keys rotate too; if their file is missing, they stay in use and no others are created."""
    ring = KeyRing(Settings())
    path = tmp_path / "projkit-keys.json"
    added = rotation.rotate(path, None, development=True)
    assert ring.current.newest.kid == added.kid
    path.unlink()
    assert ring.current.newest.kid == added.kid
    assert not path.exists()


def test_a_key_that_expires_neither_signs_nor_verifies(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key expires at its ``exp`` without a reload of the file."""
    lasting = read_jwks(path)[0]
    ending = {**new_key("ES256"), "exp": 4_000_000_000}
    write_keys_file(path, [lasting, ending], replace=True)
    settings = Settings(keys_file=path)
    keys = load_keys(settings)
    assert keys.newest.kid == ending["kid"]
    assert keys.get(ending["kid"]) is not None
    monkeypatch.setattr("projkit.auth.keys.time.time", lambda: 4_000_000_000.0)
    assert keys.newest.kid == lasting["kid"]
    assert keys.get(ending["kid"]) is None
    assert [key["kid"] for key in keys.public()] == [lasting["kid"]]


def test_a_generated_key_is_refused_in_production(tmp_path: Path) -> None:
    """Production does not start on a key that development has made, wherever the file was put."""
    load_keys(Settings())
    settings = Settings(env="production", keys_file=tmp_path / "projkit-keys.json")
    with pytest.raises(
        ConfigurationError, match=r"PROJKIT_KEYS_FILE: .*generated for development.*projkit keys new"
    ):
        load_keys(settings)


@pytest.mark.parametrize(
    ("secret", "env"),
    [
        ("PUT_HERE_YOUR_SUPER_SECRET_JWT_CODE", "development"),
        ("REPLACE THIS WITH YOUR JWT SECRET\n", "development"),
        (TEST_SECRET, "production"),
    ],
)
def test_published_secrets(tmp_path: Path, secret: str, env: Literal["development", "production"]) -> None:
    """A secret of the published lists is no key, nor is the one of projkit.testing in production."""
    path = tmp_path / "keys.json"
    write_keys_file(path, [secret_key(secret)], replace=False)
    with pytest.raises(
        ConfigurationError, match=r"PROJKIT_KEYS_FILE: .*attackers try first.*projkit keys new"
    ):
        load_keys(Settings(env=env, keys_file=path))


def test_no_key_is_also_a_legacy_secret(tmp_path: Path) -> None:
    """The legacy secret cannot sign new tokens."""
    path = tmp_path / "keys.json"
    secret = "one and the same secret for old and new tokens"
    write_keys_file(path, [secret_key(secret)], replace=False)
    with pytest.raises(
        ConfigurationError, match=r"PROJKIT_LEGACY_SECRET is also a key in .*projkit keys rotate"
    ):
        load_keys(Settings(keys_file=path, legacy_secret=("another legacy secret, which is fine", secret)))


def test_rotations_at_once_lose_no_key(path: Path) -> None:
    """Of many rotations at once each has either added its key or failed."""

    def attempt(_: int) -> str:
        try:
            return rotation.rotate(path, None, development=False).kid
        except ConfigurationError as error:
            return error.detail

    (first,) = read_jwks(path)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(16)))
    added = [each for each in outcomes if "another command is changing" not in each]
    assert added
    assert sorted(key["kid"] for key in read_jwks(path)) == sorted([first["kid"], *added])


def test_only_one_command_changes_the_file_at_a_time(path: Path) -> None:
    """A command fails while another one holds the lock, and succeeds afterwards; no lock file remains."""
    with locked(path), pytest.raises(ConfigurationError, match="another command is changing"):
        rotation.rotate(path, None, development=False)
    rotation.rotate(path, None, development=False)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_killed_command_leaves_no_lock(path: Path) -> None:
    """The lock file of a command that was killed does not prevent the next change."""
    path.with_name(f".{path.name}.lock").touch()
    rotation.rotate(path, None, development=False)


def test_a_file_that_would_be_refused_is_not_written(path: Path) -> None:
    """No change leaves a file behind that a server would not start with."""
    public = {name: value for name, value in read_jwks(path)[0].items() if name != "d"}
    write_keys_file(path, [new_key("ES256"), {**public, "kid": "p"}, new_key("EdDSA")], replace=True)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="is the signing key"):
        rotation.retire(path, read_jwks(path)[-1]["kid"])
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(path: Path) -> None:
    """A rotation by root leaves the file to the user that the server runs as, and a link where it was."""
    os.chown(path, 12_345, 12_345)
    link = path.with_name("link.json")
    link.symlink_to(path)
    rotation.rotate(link, None, development=False)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12_345, 12_345, 0o600)
    assert link.is_symlink()
    assert len(json.loads(path.read_text())["keys"]) == 2
