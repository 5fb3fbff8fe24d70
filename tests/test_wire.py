"""Messages between gateway, engine host and ledger writer survive the way and refuse what they are not."""

from __future__ import annotations

import dataclasses

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import wire

text = st.text(max_size=20)
seconds = st.floats(0, 4e9)
counts = st.integers(0, 2**31 - 1)
messages = st.lists(st.dictionaries(st.sampled_from(["role", "content"]), text), max_size=3)
policy = st.fixed_dictionaries({"name": text, "parameters": st.dictionaries(text, st.none() | counts, max_size=2)})
sent: st.SearchStrategy[wire.ServeRequest | wire.AdmissionRecord | wire.CompletionRecord] = st.one_of(
    st.builds(
        wire.ServeRequest,
        id=text,
        reply_to=text,
        messages=messages,
        policy=policy,
        stream=st.booleans(),
        temperature=st.floats(0, 2),
        top_p=st.floats(0.01, 1),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        max_tokens=st.none() | counts,
        admitted_at=seconds,
        deadline_at=seconds,
    ),
    st.builds(
        wire.AdmissionRecord,
        id=text,
        use_case_id=counts,
        checkpoint_id=counts,
        phase_id=st.none() | counts,
        variant_id=st.none() | counts,
        unit_hash=text,
        policy=policy,
        policy_version=text,
        reference=st.none() | text,
        admitted_at=seconds,
        deadline_at=seconds,
    ),
    st.builds(
        wire.CompletionRecord,
        id=text,
        outcome=text,
        completed_at=seconds,
        decision_step=st.none() | counts,
        thinking_tokens=counts,
        messages=st.none() | messages,
        thinking=text,
        queue_seconds=st.none() | seconds,
    ),
)


@settings(max_examples=60, deadline=None)
@given(sent)
def test_a_message_survives_its_json_form(
    message: wire.ServeRequest | wire.AdmissionRecord | wire.CompletionRecord,
) -> None:
    assert type(message).decode(message.encode()) == message


def test_an_unknown_field_is_refused() -> None:
    record = dataclasses.asdict(wire.CompletionRecord("a", "answered", 1.0)) | {"colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        wire.CompletionRecord.decode(orjson.dumps(record))


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(TypeError, match="completed_at"):
        wire.CompletionRecord.decode(b'{"id": "a", "outcome": "answered"}')


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b'"text"', b"\xff"])
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        wire.ServeRequest.decode(payload)


def test_a_request_for_an_engine_has_no_place_for_a_reference() -> None:
    assert "reference" not in {field.name for field in dataclasses.fields(wire.ServeRequest)}


def test_replies_survive_packing_in_order() -> None:
    events = [
        wire.ReplyEvent("a", "thinking", "so \u2013 \x00"),
        wire.ReplyEvent("b", "error", {"message": "no", "code": "x", "status": 500}),
        wire.ReplyEvent("a", "answer", "7"),
    ]
    assert wire.unpack_replies(wire.pack_replies(events)) == events


def test_streams_and_keys_of_different_owners_differ() -> None:
    names = [
        wire.request_stream(1),
        wire.request_stream(2),
        wire.reply_stream("1"),
        wire.started_key("1"),
        wire.LEDGER_STREAM,
        wire.LEDGER_DEAD_STREAM,
    ]
    assert len(set(names)) == len(names)
