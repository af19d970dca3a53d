"""Project Wycheproof's vectors for JSON Web Signatures and Keys, held against the verification of tokens.

Their payloads are not claims, so that what is tested here is all that comes before claims are read: the form of the
token, its header, the key, and the signature.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from joserfc.errors import JoseError

from projkit.auth import jws
from projkit.auth.keys import KeyList, import_verifying_key, read_keys_file
from projkit.auth.keys_file import ALGORITHMS
from projkit.errors import ConfigurationError, InvalidTokenError
from tests.corpora import corpus_file

REFUSALS: Final = (InvalidTokenError, ConfigurationError, ValueError, JoseError)

# RFC 7520's keys for PS256 and "ES521" are named for other algorithms than their signatures have (346, 347, 350,
# 351), and two tokens hold a character that base64url does not know (372, 373): refused, though called valid.
REFUSED_THOUGH_VALID: Final = {346, 347, 350, 351, 372, 373}
# Both are the text of the valid 357, character by character: their padding was lost on the way into the corpus.
SAME_AS_VALID: Final = {367: 357, 370: 357}
# No token of ours is without claims; its signature is good.
EMPTY_PAYLOAD: Final = {259}


class Vector(NamedTuple):
    """One test of the corpus."""

    file: str
    number: int
    part: str
    keys: list[dict[str, Any]]
    token: str
    valid: bool


def parts_of(file: str, group: dict[str, Any]) -> list[str]:
    """Which of a group's keys verify: the public ones; where it is about keys, the private ones as well."""
    there = [str(part) for part in ("public", "private") if part in group]
    return there[:1] if file == "signature" else there


def vectors(file: str, member: str = "jws") -> list[Vector]:
    """The vectors of a file."""
    path = corpus_file(f"wycheproof/json_web_{file}_test.json")
    return [
        Vector(
            file,
            test["tcId"],
            part,
            group[part].get("keys") or [group[part]],
            test[member] if isinstance(test[member], str) else json.dumps(test[member]),
            test["result"] == "valid",
        )
        for group in json.loads(path.read_text())["testGroups"]
        for part in parts_of(file, group)
        for test in group["tests"]
        if member in test
    ]


VECTORS: Final = [vector for file in ("signature", "key", "crypto") for vector in vectors(file)]


def parameters(chosen: list[Vector]) -> list[object]:
    """Return vectors as parameters."""
    return [pytest.param(vector, id=f"{vector.file}-{vector.number}-{vector.part}") for vector in chosen]


def keys_of(vector: Vector, directory: Path) -> KeyList:
    """The keys of a vector: private ones from a KEYS_FILE, public ones, which cannot sign, one by one."""
    if vector.part == "public":
        return KeyList([import_verifying_key(each) for each in vector.keys])
    path = directory / "keys.json"
    path.write_text(json.dumps({"keys": vector.keys}))
    return read_keys_file(path)


def is_taken(vector: Vector, directory: Path) -> bool:
    """Return whether a key is found, the format is correct, and the signature is valid."""
    try:
        keys = keys_of(vector, directory)
        header, _ = jws.split(vector.token)
        key = keys.get(header["kid"])
        if key is None:
            return False
        jws.verify(jws.Unverified(vector.token, header, {}), key.key, key.algorithm)
    except REFUSALS:
        return False
    return True


def is_expected(vector: Vector) -> bool:
    """Return the expected result of a vector."""
    if vector.file == "signature" and vector.number in SAME_AS_VALID:
        return True
    refused = vector.file == "signature" and vector.number in REFUSED_THOUGH_VALID | EMPTY_PAYLOAD
    # Algorithms that no key here can have are refused with the key.
    known = all(key.get("alg") in ALGORITHMS for key in vector.keys)
    return vector.valid and known and not refused


@pytest.mark.parametrize("vector", parameters(VECTORS))
def test_signatures(vector: Vector, tmp_path: Path) -> None:
    """A signature is accepted if and only if the corpus calls it valid and its algorithm is supported."""
    assert is_taken(vector, tmp_path) is is_expected(vector)


def test_empty_payload() -> None:
    """The vector that is rejected for its empty payload has a valid signature."""
    empty = [vector for vector in VECTORS if vector.file == "signature" and vector.number in EMPTY_PAYLOAD]
    assert empty
    for vector in empty:
        key = import_verifying_key(vector.keys[0])
        unverified = jws.Unverified(vector.token, {"alg": "RS256"}, {})
        jws.verify(unverified, key.key, "RS256")
        with pytest.raises(InvalidTokenError):
            jws.read(vector.token)


def test_contradictions() -> None:
    """The two vectors that are taken though called invalid are the very text of a valid one."""
    texts = {vector.number: vector.token for vector in VECTORS if vector.file == "signature"}
    for number, twin in SAME_AS_VALID.items():
        assert texts[number] == texts[twin]


@pytest.mark.parametrize("vector", parameters(vectors("crypto", "jwe")))
def test_encrypted_tokens(vector: Vector, tmp_path: Path) -> None:
    """An encrypted token (RFC 7516) is rejected by its form, whatever its content."""
    with pytest.raises(InvalidTokenError):
        jws.read(vector.token)
    with pytest.raises(REFUSALS):
        keys_of(vector, tmp_path)


def test_the_corpus_is_whole() -> None:
    """The corpus contains the vectors that are named here, each with the verdict that is assumed here."""
    signatures = {vector.number: vector.valid for vector in VECTORS if vector.file == "signature"}
    assert len(signatures) == 401
    assert all(signatures[number] for number in REFUSED_THOUGH_VALID | EMPTY_PAYLOAD)
    assert not any(signatures[number] for number in SAME_AS_VALID)
    taken = [vector for vector in VECTORS if vector.file == "signature" and is_expected(vector)]
    assert {vector.keys[0]["alg"] for vector in taken} == {"HS256", "RS256", "ES256"}
