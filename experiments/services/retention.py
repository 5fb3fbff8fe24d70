"""What becomes of the texts of a record, by its retention: kept, hashed or dropped; and its way through Redis.

A message that is not kept goes through Redis sealed. What may be stored of it has no text; but the answer and the
reference are needed until they are graded: the tables hold them sealed until then
(:mod:`experiments.services.private_rows`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import orjson

from experiments.grading import normalise_answer
from experiments.services.sealing import seal, seal_text, unseal_text
from experiments.services.secrets import text_digest
from experiments.wire import (
    DROP,
    HASH,
    KEEP,
    KIND,
    LEDGER_STREAM,
    PAYLOAD,
    AdmissionRecord,
    CompletionRecord,
    ServeRequest,
)

_DIGEST = re.compile(r"hmac-sha256:[0-9a-f]{64}")
_CODE = re.compile(r"[a-z_]{1,40}")
_STRICTNESS = (KEEP, HASH, DROP)


def message_payload(message: ServeRequest | AdmissionRecord | CompletionRecord) -> bytes:
    """A message as it goes into a stream."""
    if message.retention == KEEP:
        return message.encode()
    if isinstance(message, CompletionRecord):
        message = without_texts(message)
    return seal(message.encode())


def ledger_entry(record: AdmissionRecord | CompletionRecord) -> tuple[str, dict[bytes, Any]]:
    """The ledger's stream, and the entry of a record in it."""
    kind = "admission" if isinstance(record, AdmissionRecord) else "completion"
    return LEDGER_STREAM, {KIND: kind, PAYLOAD: message_payload(record)}


def stricter(one: str, other: str) -> str:
    """The one of two settings that keeps less."""
    return max(one, other, key=_STRICTNESS.index)


def without_texts(record: CompletionRecord) -> CompletionRecord:
    """A record as its retention has it, but for the answer; a second time changes nothing."""
    return dataclasses.replace(
        record,
        messages=kept_messages(record.messages, record.retention),
        thinking=kept_text(record.thinking, record.retention),
        text=kept_text(record.text, record.retention),
        exit_detail="",
        error=kept_error(record.error, record.retention),
    )


def to_store(record: CompletionRecord, retention: str) -> CompletionRecord:
    """What the tables may hold of a completion until it is graded: no text in clear."""
    if retention == KEEP:
        return record
    return without_texts(dataclasses.replace(record, retention=retention, answer=seal_text(record.answer)))


def admission_to_store(record: AdmissionRecord, retention: str) -> AdmissionRecord:
    """What the tables may hold of an admission until it is graded: no reference in clear, and no shadow run."""
    if retention == KEEP:
        return record
    reference = None if record.reference is None else seal_text(record.reference)
    return dataclasses.replace(record, retention=retention, reference=reference, shadowed=False)


def kept_text(text: str, retention: str) -> str:
    """What is kept of a text."""
    if retention == DROP:
        return ""
    if retention == KEEP or not text or _DIGEST.fullmatch(text):
        return text
    return f"hmac-sha256:{text_digest(text)}"


def kept_error(error: str, retention: str) -> str:
    """What is kept of an error: in words it may quote the prompt, as a code it does not."""
    return error if retention == KEEP or _CODE.fullmatch(error) else ""


def kept_answer(answer: str, retention: str) -> str:
    """What is kept of an answer or a reference, sealed or not: hashes are equal where an exact match is."""
    return kept_text(answer if _DIGEST.fullmatch(answer) else normalise_answer(unseal_text(answer)), retention)


def kept_messages(messages: list[dict[str, Any]] | None, retention: str) -> list[dict[str, Any]] | None:
    """What is kept of messages: of hashed ones who spoke, and a digest of all else."""
    if retention == DROP or messages is None:
        return None
    return messages if retention == KEEP else [_hashed(message, retention) for message in messages]


def _hashed(message: dict[str, Any], retention: str) -> dict[str, Any]:
    content, others = message.get("content"), {k: v for k, v in message.items() if k not in ("role", "content")}
    text = content if isinstance(content, str) and not others else _json([content, others])
    return {"role": message.get("role", ""), "content": kept_text(text, retention)}


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
