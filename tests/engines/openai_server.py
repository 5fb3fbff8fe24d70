"""A small server that speaks OpenAI's protocol over scripts: a character is a token, and so is a tag."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from workers.engines.base import ThinkingProfile
from workers.engines.scripted_engine import Script, ScriptedAnswer
from workers.engines.vllm_engine.in_place import Control
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vocabulary import HuggingFaceVocabulary

OPEN, CLOSE, END, START = "<think>", "</think>", "<|im_end|>", "<|im_start|>"
SPECIAL = (START, END, OPEN, CLOSE)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
PROFILE = ThinkingProfile(step_boundary="\n", max_context_tokens=600)
_TOKEN = re.compile("|".join(map(re.escape, SPECIAL)) + "|.", re.DOTALL)


def tokens_of(text: str) -> list[str]:
    """The tokens of a text."""
    return _TOKEN.findall(text)


def settling(number: int) -> Script:
    """Trial answers differ until 40 tokens, then they are the answer, more and more surely."""
    thought = "".join(f"w{n:02d}\n" for n in range(30))
    return Script(
        tuple(thought),
        (
            ScriptedAnswer(0, ("0",), 0.4),
            ScriptedAnswer(20, ("1",), 0.5),
            ScriptedAnswer(40, tuple(str(number)), 0.95),
        ),
        dict.fromkeys(range(60, 120), 1.0),
    )


def write_tokenizer(folder: Path) -> str:
    """The tokenizer as files; the folder's path."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {token: n for n, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, additional_special_tokens=list(SPECIAL))
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))
    return str(folder)


@dataclass
class Behaviour:
    """How the server behaves; tests change it.

    Attributes:
        reasoning_field: name under which it tells thoughts in chats; "": it leaves the tags in the text.
        per_chunk: tokens in one event.
        cached: what it says that its cache held of each prompt; None: nothing.
        reasoning_usage: whether its usage tells the reasoning's share.
        fault: called before each event with its number (from 0); may write to the response or raise.
        status, error: the answer instead of a stream.
        failures: so many requests are refused that way first; None: all.
        pause_seconds: between events.
        verbatim: what is sent whatever was asked: the events of a stream, or else the last of them, whole.
    """

    reasoning_field: str = "reasoning"
    per_chunk: int = 1
    cached: int | None = None
    reasoning_usage: bool = False
    fault: Callable[[web.StreamResponse, int], Any] | None = None
    status: int = 200
    error: bytes = b""
    failures: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_seconds: float = 0.0
    verbatim: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    path: str
    body: dict[str, Any]
    authorization: str | None


class ScriptedServer:
    """The server.

    Args:
        scripts: by the text of the last user message; any other prompt gets that of 0.
        behaviour: how it behaves.
        tokenizer_path: folder of the tokenizer; only for prompts of ids.

    Attributes:
        seen: requests, in order.
        left: tokens that had been sent when a client left, one number for each.
        streaming: answers under way.
        default_limit: tokens that a request without a limit gets.
    """

    def __init__(
        self, scripts: Mapping[str, Script], behaviour: Behaviour | None = None, tokenizer_path: str | None = None
    ) -> None:
        self.scripts = scripts
        self.behaviour = behaviour or Behaviour()
        self.seen: list[Seen] = []
        self.left: list[int] = []
        self.streaming = 0
        self.default_limit = 10_000
        self.vocabulary: HuggingFaceVocabulary | None = None
        self._texts: dict[int, str] = {}
        if tokenizer_path is not None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
            self.vocabulary = HuggingFaceVocabulary(tokenizer, PROFILE, frozenset({tokenizer.eos_token_id}))
            self._texts = {n: tokenizer.decode([n], skip_special_tokens=False) for n in range(len(tokenizer))}
            self._ids = {text: n for n, text in self._texts.items()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve; gives the base URL."""
        app = web.Application()
        app.router.add_post("/v1/completions", self._handle)
        app.router.add_post("/v1/chat/completions", self._handle)
        # A client that leaves is noticed while nothing is being written to it.
        runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        behaviour = self.behaviour
        self.seen.append(Seen(request.path, body, request.headers.get("Authorization")))
        if behaviour.status != 200 and (behaviour.failures is None or len(self.seen) <= behaviour.failures):
            return web.Response(status=behaviour.status, body=behaviour.error, headers=behaviour.headers)
        if behaviour.verbatim:
            return await self._say(request, behaviour.verbatim, stream=bool(body.get("stream")))
        prompt, own = self._prompt(body)
        if len(prompt) + len(own) + body.get("max_tokens", 1) > PROFILE.max_context_tokens:
            message = f"This model's maximum context length is {PROFILE.max_context_tokens} tokens"
            return web.json_response({"error": {"message": message, "code": 400}}, status=400)
        if not body.get("stream"):
            return await self._whole(_Events(self, body, prompt, own))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streaming += 1
        sent = 0
        try:
            events = _Events(self, body, prompt, own)
            for number, (event, tokens) in enumerate(events.all()):
                if behaviour.fault is not None:
                    fault = behaviour.fault(response, number)
                    if fault is not None:
                        await fault
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                sent += tokens
                await asyncio.sleep(behaviour.pause_seconds)
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            self.left.append(sent)
        finally:
            self.streaming -= 1
        return response

    async def _say(
        self, request: web.Request, said: Sequence[Mapping[str, Any]], *, stream: bool
    ) -> web.StreamResponse:
        if not stream:
            return web.json_response(said[-1])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in said:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(self.behaviour.pause_seconds)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _whole(self, events: _Events) -> web.Response:
        """The whole answer of a chat, after the time that its events take."""
        self.streaming += 1
        sent = 0
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        choice: dict[str, Any] = {}
        try:
            for event, tokens in events.all():
                await asyncio.sleep(self.behaviour.pause_seconds)
                sent += tokens
                for choice in event["choices"]:
                    for name, text in choice["delta"].items():
                        message[name] = message.get(name, "") + text
        except asyncio.CancelledError:
            self.left.append(sent)
            raise
        finally:
            self.streaming -= 1
        whole = {"index": 0, "message": message, "finish_reason": choice["finish_reason"]}
        return web.json_response({"choices": [whole], "usage": events.usage})

    def _prompt(self, body: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Tokens of the prompt up to the thought's opening, and those behind it."""
        if "messages" in body:
            text = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in body["messages"])
            if body.get("continue_final_message"):
                text = text.removesuffix(f"{END}\n")
            else:
                text += f"{START}assistant\n{OPEN}"
        elif isinstance(body["prompt"], str):
            text = body["prompt"]
        else:
            text = "".join(self._texts[token] for token in body["prompt"])
        tokens = tokens_of(text)
        at = tokens.index(OPEN) + 1
        return tokens[:at], tokens[at:]

    def script(self, prompt: Sequence[str]) -> Script:
        """The script of a templated conversation."""
        asked = "".join(prompt).rpartition(f"{START}user\n")[2].partition(END)[0]
        return self.scripts.get(asked) or settling(0)

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """Ids of tokens."""
        return [self._ids[token] for token in tokens]

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Tokens of ids."""
        return [self._texts[token] for token in ids]


@dataclass(frozen=True)
class _Drawn:
    """One token that the model wrote: its text, its probability and that of the likeliest one."""

    text: str
    logprob: float
    best: float


class _Events:
    """What the server sends for one request."""

    def __init__(self, server: ScriptedServer, body: Mapping[str, Any], prompt: list[str], own: list[str]) -> None:
        self._server = server
        self._behaviour = server.behaviour
        self._body = body
        self._prompt = prompt
        self._own = own
        self._chat = "messages" in body
        self._script = server.script(prompt)
        self._control: Control | None = None
        self._told = 0
        plan = Plan.from_arguments(body.get("vllm_xargs"))
        if plan is not None:
            assert server.vocabulary is not None
            assert plan.key == ""
            self._control = Control(plan, server.vocabulary)

    def all(self) -> list[tuple[dict[str, Any], int]]:
        """Events with the number of tokens in each."""
        drawn, finish = self._decode()
        size = self._behaviour.per_chunk
        groups = [drawn[at : at + size] for at in range(0, len(drawn), size)]
        events = []
        body = [*self._own]
        count = 0
        for number, group in enumerate(groups):
            count += len(group)
            event = self._event(group, body, finish if number == len(groups) - 1 else None)
            body += [token.text for token in group]
            options = self._body.get("stream_options") or {}
            if options.get("continuous_usage_stats"):
                event["usage"] = self._usage(count, body)
            events.append((event, len(group)))
        self.usage = self._usage(count, body)
        if (self._body.get("stream_options") or {}).get("include_usage"):
            events.append(({"choices": [], "usage": self.usage}, 0))
        return events

    def _decode(self) -> tuple[list[_Drawn], str]:
        body, drawn = [*self._own], []
        budget = self._body.get("thinking_token_budget")
        if budget is None and "thinking" in self._body:
            budget = self._body["thinking"]["budget_tokens"]
        if budget is None and "reasoning_effort" in self._body:
            budget = {"low": 8, "high": 40}[self._body["reasoning_effort"]]
        limit = self._body.get("max_tokens") or self._body.get("max_completion_tokens") or self._server.default_limit
        while len(drawn) < limit:
            token = self._next(body, budget)
            drawn.append(token)
            body.append(token.text)
            if token.text == END:
                return drawn, "stop"
        return drawn, "length"

    def _next(self, body: list[str], budget: int | None) -> _Drawn:
        if CLOSE in body:
            at = body.index(CLOSE)
            answer = self._script.answer_after(at)
            said = body[at + 1 :]
            logprob = math.log(answer.probability)
            return _Drawn(answer.words[len(said)] if len(said) < len(answer.words) else END, logprob, logprob)
        done = len(body)
        margin = self._script.margins.get(done, 20.0) if done < len(self._script.thinking) else 0.0
        forced = budget is not None and done >= budget
        if self._control is not None:
            own = self._server.ids(body)
            self._control.see(own[self._control.seen :])
            if self._control.wants_reading:
                self._control.read(margin)
            token = self._control.forced()
            if token is not None:
                return _Drawn(self._server.texts([token])[0], -1.0 - margin, -1.0)
        if forced or done >= len(self._script.thinking):
            return _Drawn(CLOSE, -1.0 - margin, -1.0)
        return _Drawn(self._script.thinking[done], -1.0, -1.0)

    def _event(self, group: Sequence[_Drawn], before: Sequence[str], finish: str | None) -> dict[str, Any]:
        text = "".join(token.text for token in group if token.text != END)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if not self._chat:
            choice["text"] = text
            if self._body.get("return_token_ids"):
                choice["token_ids"] = self._server.ids([token.text for token in group])
            if self._body.get("logprobs") is not None:
                choice["logprobs"] = {
                    "tokens": [token.text for token in group],
                    "token_logprobs": [token.logprob for token in group],
                    "top_logprobs": [{token.text: token.logprob, "likeliest": token.best} for token in group],
                }
            return {"choices": [choice]}
        if self._body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": t.text, "logprob": t.logprob} for t in group]}
        name = self._behaviour.reasoning_field
        if name and CLOSE not in before:
            thought, _, said = text.partition(CLOSE)
            choice["delta"] = ({name: thought} if thought else {}) | ({"content": said} if said else {})
        else:
            choice["delta"] = {"content": text}
        return {"choices": [choice]}

    def _usage(self, count: int, body: Sequence[str]) -> dict[str, Any]:
        usage: dict[str, Any] = {"prompt_tokens": len(self._prompt) + len(self._own), "completion_tokens": count}
        if self._behaviour.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self._behaviour.cached}
        if self._behaviour.reasoning_usage:
            inside = body.index(CLOSE) + 1 if CLOSE in body else len(body)
            usage["completion_tokens_details"] = {"reasoning_tokens": inside - len(self._own)}
        return usage
