"""OpenAI's response shapes, from a completion record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from experiments.gateway.admission import Admitted
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.dialect import ReasoningField
from experiments.routing import Route

Record = Mapping[str, Any]
Choices = Sequence[Mapping[str, Any]]


def usage(record: Record) -> dict[str, Any]:
    """Tokens as OpenAI counts them: completion = thinking + overrun + answer; probes are an extension."""
    reasoning = record["thinking_tokens"] + record["overrun_tokens"]
    completion = reasoning + record["answer_tokens"]
    return {
        "prompt_tokens": record["prompt_tokens"],
        "completion_tokens": completion,
        "total_tokens": record["prompt_tokens"] + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "curtail": {
            "probe_tokens": record["probe_tokens"],
            "decoded_tokens": completion + record["probe_tokens"],
        },
    }


def curtail_extension(record: Record, admitted: Admitted, client_cap: int | None = None) -> dict[str, Any]:
    """What Curtail did: the assigned arm, what set it aside, the client's cap where it sent one, the applied exit."""
    assignment = admitted.assignment
    experiment = assignment.experiment
    return {
        "experiment": experiment.id if experiment else None,
        "variant": assignment.arm.variant_key,
        "policy": assignment.arm.policy,
        **({"ineligible": list(admitted.ineligible)} if admitted.ineligible else {}),
        **({} if client_cap is None else {"client_cap": client_cap}),
        "exit": {
            "reason": record["exit_reason"],
            "decision_step": record["decision_step"],
            "applied_step": record["applied_step"],
            "detail": record["exit_detail"],
        },
    }


def models(routes: Iterable[Route]) -> dict[str, dict[str, Any]]:
    """The models that requests to some routes may name, by their names: the model's and the use case's."""
    names = [name for route in routes for name in (route.model, route.slug)]
    return {name: {"id": name, "object": "model", "created": 0, "owned_by": "curtail"} for name in names}


class Shape(Protocol):
    """The form in which one request is answered."""

    def whole(self, record: Record) -> dict[str, Any]:
        """The answer in one piece."""
        ...

    def opening(self) -> dict[str, Any] | None:
        """The first chunk of a stream, before any text; None: there is none."""
        ...

    def text(self, kind: str, text: str) -> dict[str, Any] | None:
        """A chunk with text, "thinking" or "answer"; None: clients of this form don't get it."""
        ...

    def passed(self, choices: Choices) -> dict[str, Any]:
        """A chunk with the choices of a server that got the request as it is."""
        ...

    def ending(self, record: Record, last: dict[str, Any] | None) -> dict[str, Any]:
        """The last chunk but usage; ``last`` is what the server ended its choices with, where it got the request."""
        ...

    def usage(self, record: Record) -> dict[str, Any]:
        """The chunk asked for by ``stream_options.include_usage``."""
        ...


class _Shape:
    """What both forms have in common.

    Args:
        admitted: the request as it was admitted.
        request: the request.
        whole_object, chunk_object: names of the two kinds of body.
    """

    def __init__(self, admitted: Admitted, request: ChatRequest, whole_object: str, chunk_object: str) -> None:
        self._admitted = admitted
        self._request = request
        self._whole_object = whole_object
        self._chunk_object = chunk_object

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._admitted.id,
            "object": kind,
            "created": int(self._admitted.admitted_at),
            "model": self._request.model,
            "choices": choices,
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._body(self._chunk_object, choices)

    def _whole(self, record: Record, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body(self._whole_object, choices)
        return {**body, "usage": usage(record), "curtail": self._extension(record)}

    def _extension(self, record: Record) -> dict[str, Any]:
        return curtail_extension(record, self._admitted, self._request.client_cap)

    def usage(self, record: Record) -> dict[str, Any]:
        return {**self._chunk([]), "usage": usage(record)}


class ChatShape(_Shape):
    """``chat.completion`` and its chunks.

    Args:
        admitted: the request as it was admitted.
        request: the request.
        reasoning_field: under which name thinking is sent.
    """

    def __init__(self, admitted: Admitted, request: ChatRequest, reasoning_field: ReasoningField) -> None:
        super().__init__(admitted, request, "chat.completion", "chat.completion.chunk")
        self._names = reasoning_field.names

    def whole(self, record: Record) -> dict[str, Any]:
        if choices := record.get("choices"):
            return self._whole(record, [self._renamed(choice, "message") for choice in choices])
        message = {"role": "assistant", "content": record["text"], **dict.fromkeys(self._names, record["thinking"])}
        choice = {"index": 0, "message": message, "finish_reason": record["finish_reason"], "logprobs": None}
        return self._whole(record, [choice])

    def opening(self) -> dict[str, Any] | None:
        # A server that gets the request as it is opens its own choices.
        return self._delta({"role": "assistant", "content": ""}) if self._request.passthrough is None else None

    def text(self, kind: str, text: str) -> dict[str, Any] | None:
        return self._delta(dict.fromkeys(self._names, text) if kind == "thinking" else {"content": text})

    def passed(self, choices: Choices) -> dict[str, Any]:
        return self._chunk([self._renamed(choice, "delta") for choice in choices])

    def ending(self, record: Record, last: dict[str, Any] | None) -> dict[str, Any]:
        return {**(last or self._delta({}, record["finish_reason"])), "curtail": self._extension(record)}

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}])

    def _renamed(self, choice: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A server's choice with its thinking under our names."""
        said = choice.get(name)
        if not isinstance(said, Mapping):
            return dict(choice)
        rest = {key: value for key, value in said.items() if key not in ("reasoning", "reasoning_content")}
        thought = said.get("reasoning") or said.get("reasoning_content")
        return {**choice, name: rest | (dict.fromkeys(self._names, thought) if thought else {})}


class TextShape(_Shape):
    """``text_completion``, whole and in chunks: the answer alone; how long the thinking was, usage tells."""

    def __init__(self, admitted: Admitted, request: ChatRequest) -> None:
        super().__init__(admitted, request, "text_completion", "text_completion")

    def whole(self, record: Record) -> dict[str, Any]:
        return self._whole(record, [self._choice(record["text"], record["finish_reason"])])

    def opening(self) -> dict[str, Any] | None:
        return None

    def text(self, kind: str, text: str) -> dict[str, Any] | None:
        return self._chunk([self._choice(text)]) if kind == "answer" else None

    def passed(self, choices: Choices) -> dict[str, Any]:
        raise AssertionError("plain completions are never passed on as they are")

    def ending(self, record: Record, last: dict[str, Any] | None) -> dict[str, Any]:
        return {**self._chunk([self._choice("", record["finish_reason"])]), "curtail": self._extension(record)}

    def _choice(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
