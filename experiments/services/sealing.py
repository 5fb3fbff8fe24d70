"""Messages and texts that only this installation can read again: AES-GCM, each under a key of its own.

The key of one comes from the installation's secret and 16 random bytes that go with it, so that none is used twice
however many there are.
"""

from __future__ import annotations

import base64
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from experiments.services.secrets import purpose_key

# No JSON begins so.
_MARK = b"\x01"
TEXT_MARK = "sealed:1:"
_SALT_BYTES = 16
_NONCE = bytes(12)  # the key is new each time


def seal(payload: bytes) -> bytes:
    """The payload, unreadable."""
    salt = os.urandom(_SALT_BYTES)
    return _MARK + salt + _cipher(salt).encrypt(_NONCE, payload, None)


def unseal(payload: bytes) -> bytes:
    """The payload of :func:`seal`; anything else as it is.

    Raises:
        ValueError: it was sealed under another secret, or changed since.
    """
    if not payload.startswith(_MARK):
        return payload
    salt, sealed = payload[1 : 1 + _SALT_BYTES], payload[1 + _SALT_BYTES :]
    try:
        return _cipher(salt).decrypt(_NONCE, sealed, None)
    except InvalidTag as error:
        raise ValueError("a sealed payload can't be read: SECRET_KEY is not the one that it was sealed with") from error


def seal_text(text: str) -> str:
    """The text, unreadable, fit for a column of text; an empty one stays empty."""
    return TEXT_MARK + base64.b64encode(seal(text.encode("utf-8", "surrogatepass"))).decode() if text else ""


def unseal_text(text: str) -> str:
    """The text of :func:`seal_text`; anything else as it is, also what only looks like it."""
    if not text.startswith(TEXT_MARK):
        return text
    try:
        return unseal(base64.b64decode(text.removeprefix(TEXT_MARK))).decode("utf-8", "surrogatepass")
    except ValueError:
        return text


def is_sealed(text: str) -> bool:
    """Whether a text can't be read as it is."""
    return unseal_text(text) != text


def _cipher(salt: bytes) -> AESGCM:
    return AESGCM(hmac.digest(purpose_key("seal"), salt, "sha256"))
