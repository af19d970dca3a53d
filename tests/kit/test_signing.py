"""Signed tokens: one encoding, any change is noticed, and every key is tried with constant work."""

import base64
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from projkit.auth.refresh import RefreshToken, RefreshTokens
from projkit.signing import MAX_TOKEN_LENGTH, Signer, decode, encode, mac

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
KEYS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5, unique=True)
PAYLOADS = st.binary(max_size=100)
CONTEXTS = st.lists(st.binary(max_size=20), max_size=4)
SIGNERS = st.builds(
    lambda key, version, mac_bytes: Signer(lambda: (key,), version=version, mac_bytes=mac_bytes),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 255),
    st.integers(16, 32),
)


@given(SIGNERS, PAYLOADS, CONTEXTS)
def test_round_trip(signer: Signer, payload: bytes, context: list[bytes]) -> None:
    """A signed payload is verified and returned, as text and as bytes."""
    token = signer.sign(payload, *context)
    assert signer.unsign(token, *context) == payload
    assert signer.unsign(token.encode(), *context) == payload


@given(SIGNERS, PAYLOADS, CONTEXTS, st.data())
def test_every_changed_bit_is_rejected(
    signer: Signer, payload: bytes, context: list[bytes], data: st.DataObject
) -> None:
    """A token of which any single bit differs is rejected, wherever that bit is."""
    raw = bytearray(decode(signer.sign(payload, *context)))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert signer.unsign(encode(bytes(raw)), *context) is None


def test_each_bit_of_a_token() -> None:
    """Of one token, each of its bits is covered: version, payload and MAC."""
    signer = Signer(lambda: (bytes(32),), mac_bytes=16)
    raw = decode(signer.sign(b"payload", b"context"))
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert signer.unsign(encode(bytes(changed)), b"context") is None


@given(SIGNERS, PAYLOADS, st.data())
def test_shorter_and_longer_tokens(signer: Signer, payload: bytes, data: st.DataObject) -> None:
    """A token that was cut or extended is rejected."""
    raw = decode(signer.sign(payload))
    assert signer.unsign(encode(raw[: data.draw(st.integers(0, len(raw) - 1))])) is None
    assert signer.unsign(encode(raw + data.draw(st.binary(min_size=1, max_size=40)))) is None


def other_spellings(token: str) -> list[str]:
    """Return texts that lenient decoders take for the same bytes as ``token``, and some near it."""
    last = ALPHABET.index(token[-1])
    return [
        *(token + end for end in ("=", "==", "===", "\n", " ", "\0", "A", "-", "%3D")),
        *(start + token for start in ("=", " ", "\n", "\ufeff")),
        *(f"{token[:place]}{extra}{token[place:]}" for place in range(1, len(token)) for extra in "\n =!"),
        *(token[:-1] + letter for letter in ALPHABET if letter != ALPHABET[last]),
        token.replace("-", "+").replace("_", "/"),
        base64.b64encode(decode(token)).decode(),
        base64.urlsafe_b64encode(decode(token)).decode(),
        decode(token).hex(),
        base64.b32encode(decode(token)).decode(),
        token.encode("utf-16").decode("latin-1"),
        "".join(chr(ord(letter) + 0xFEE0) for letter in token),  # full-width forms
    ]


@given(SIGNERS, PAYLOADS)
def test_other_spellings_are_rejected(signer: Signer, payload: bytes) -> None:
    """The same bytes in any other spelling are rejected, so a token can be compared as text."""
    token = signer.sign(payload)
    for spelling in other_spellings(token):
        if spelling != token:
            assert signer.unsign(spelling) is None


@given(st.text(max_size=30) | st.text(ALPHABET + "+/= \n", max_size=30))
def test_decoding_is_the_inverse_of_encoding(text: str) -> None:
    """A text is decoded only if it is what its bytes are encoded as."""
    try:
        raw = decode(text)
    except ValueError:
        return
    assert encode(raw) == text


@given(st.binary(max_size=60))
def test_encoding(raw: bytes) -> None:
    """Any bytes are encoded without padding, in the alphabet for URLs, and decoded again."""
    text = encode(raw)
    assert set(text) <= set(ALPHABET)
    assert decode(text) == raw


def test_too_long_tokens() -> None:
    """A token of more than 2,048 characters is rejected."""
    signer = Signer(lambda: [bytes(32)])
    longest = signer.sign(bytes(MAX_TOKEN_LENGTH * 3 // 4 - 33))
    assert len(longest) == MAX_TOKEN_LENGTH
    assert signer.unsign(longest) is not None
    assert signer.unsign(signer.sign(bytes(MAX_TOKEN_LENGTH * 3 // 4 - 32))) is None


@given(KEYS, PAYLOADS, CONTEXTS)
def test_every_key_is_tried(keys: list[bytes], payload: bytes, context: list[bytes]) -> None:
    """A token is verified by whichever key signed it, the oldest included, and the newest one signs."""
    signer = Signer(lambda: keys)
    assert signer.verify(signer.sign(payload, *context), *context) == (payload, keys[0])
    for key in keys:
        token = signer.sign(payload, *context, key=key)
        assert signer.verify(token, *context) == (payload, key)
        others = [each for each in keys if each != key]
        assert Signer(lambda others=others: others).unsign(token, *context) is None  # type: ignore[misc]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_constant_work(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification computes and compares one MAC per key, whichever key matches, or none."""
    keys = [bytes([number]) * 32 for number in range(count)]
    signer = Signer(lambda: keys)
    tokens = [signer.sign(b"payload", key=key) for key in keys]
    tokens += [signer.sign(b"payload", key=bytes([200]) * 32), signer.sign(b"payload", b"elsewhere")]
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        return call

    for name in ("digest", "compare_digest"):
        monkeypatch.setattr(hmac, name, counted(name, getattr(hmac, name)))
    for token in tokens:
        calls.clear()
        signer.unsign(token)
        assert sorted(calls) == ["compare_digest"] * count + ["digest"] * count


@given(SIGNERS, PAYLOADS, CONTEXTS, CONTEXTS)
def test_a_context_is_not_another(
    signer: Signer, payload: bytes, context: list[bytes], other: list[bytes]
) -> None:
    """A token is rejected in any other context, also where the parts joined are the same bytes."""
    assume(context != other)
    assert signer.unsign(signer.sign(payload, *context), *other) is None


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_parts_are_delimited(parts: list[bytes], others: list[bytes]) -> None:
    """Two different sequences of parts have different MACs."""
    assume(parts != others)
    key = bytes(32)
    assert mac(key, *parts) != mac(key, *others)
    assert mac(key, *parts) == mac(key, *parts)


@given(PAYLOADS)
def test_another_version(payload: bytes) -> None:
    """A token of another version is rejected."""
    keys = [bytes(32)]
    assert Signer(lambda: keys, version=2).unsign(Signer(lambda: keys).sign(payload)) is None


def test_random_tokens_differ() -> None:
    """Two random tokens for one context differ, and both are verified."""
    signer = Signer(lambda: [bytes(32)])
    tokens = {signer.sign_random(b"context") for _ in range(100)}
    assert len(tokens) == 100
    assert all(signer.unsign(token, b"context") is not None for token in tokens)


@pytest.mark.parametrize(
    ("token", "context", "mac_bytes"),
    [
        ("AWRlZmdoaWprbG1ub3BxcnOpoGYaHWKliOzEdiaA7yy9", b"0::alice", 16),
        ("AWRlZmdoaWprbG1ub3BxcnPeM9dAT4MeE_pHUw0dwbs6XPsJ0B1ww09b0jNlBErpCQ", b"session:an id", 32),
    ],
)
def test_the_format_is_stable(token: str, context: bytes, mac_bytes: int) -> None:
    """Device tokens and CSRF values that browsers hold stay valid: these were issued before the module existed."""
    signer = Signer(lambda: [bytes(range(32))], mac_bytes=mac_bytes)
    assert signer.unsign(token, context) == bytes(range(100, 116))
    assert signer.sign(bytes(range(100, 116)), context) == token


def test_refresh_tokens_are_stable() -> None:
    """Refresh tokens that clients hold stay valid, and have the successor that they had before."""
    text = (
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACrq6urq6urq6urq6ur"
        "q6urdGVuYW50"
    )
    successor = (
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAiPK3dIZWhoh9OvA3tOM9DPj66WOVhnLTJc-DWIjMFAyrq6urq6urq6urq6ur"
        "q6urdGVuYW50"
    )
    token = RefreshToken(encode(bytes(32)), bytes(32), "ab" * 16, "tenant")
    assert token.encode() == text
    assert RefreshTokens.read(text) == token
    assert RefreshTokens(lambda: [bytes(range(32))]).successor(token, 7).encode() == successor
