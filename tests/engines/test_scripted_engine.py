"""The scripted engine keeps the contract, and plays exactly what its scripts say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from experiments.policies import AnswerConvergence, EndMargin, ExitReason
from tests.engines.contract import EngineContract, ask, request
from workers.engines.base import EngineError, ThinkingProfile
from workers.engines.scripted_engine import Script, ScriptedAnswer, ScriptedEngine, read_scripts, split_words

PROFILE = ThinkingProfile(step_boundary="\n", max_context_tokens=600)


def thought(words: int) -> tuple[str, ...]:
    """So many words; every fourth is a line break."""
    return tuple("\n" if n % 4 == 3 else f"w{n} " for n in range(words))


def settling(number: int) -> Script:
    """Trial answers differ until 40 words, then they are the answer, more and more surely."""
    answer = (f"{number}",)
    return Script(
        thought(120),
        (
            ScriptedAnswer(0, ("0",), 0.4, 2.0),
            ScriptedAnswer(20, ("1",), 0.5, 1.0),
            ScriptedAnswer(40, answer, 0.95, 0.1),
        ),
        dict.fromkeys(range(60, 120), 1.0),
    )


SCRIPTS = {f"question {n}": settling(100 + n) for n in range(6)}


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    def choose(messages: Sequence[object]) -> Script:
        return SCRIPTS.get(messages[-1]["content"], settling(0))  # type: ignore[index]

    engine = ScriptedEngine(choose, PROFILE)
    await engine.start()
    yield engine
    await engine.close()


class TestContract(EngineContract):
    prompts = tuple(SCRIPTS)
    wrap_up = "enough of this\n"
    too_long = 400


async def test_a_script_is_played_to_the_word(engine: ScriptedEngine) -> None:
    result = await ask(engine, request("a", "question 3"))
    assert (result.thinking, result.text) == ("".join(thought(120)), "103")
    assert (result.tokens.thinking, result.tokens.answer) == (121, 2)


async def test_exits_fall_where_the_script_puts_their_signals(engine: ScriptedEngine) -> None:
    converged = await ask(engine, request("a", "question 1", AnswerConvergence(patience=2, probe_every=16)))
    assert converged.exit is not None
    assert (converged.exit.reason, converged.exit.decision_step) == (ExitReason.CONVERGED, 64)  # 0, 1, 101, 101
    near = await ask(engine, request("b", "question 1", EndMargin(threshold=1.0)))
    assert near.exit is not None
    assert (near.exit.reason, near.exit.decision_step) == (ExitReason.END_NEAR, 60)


async def test_an_error_in_one_script_fails_its_own_request_alone() -> None:
    good = settling(7)
    bad = Script(("a ",), (ScriptedAnswer(0, ("7",)),))
    object.__setattr__(bad, "answers", ())  # breaks when the answer is looked up
    engine = ScriptedEngine(lambda messages: bad if messages[-1]["content"] == "bad" else good, PROFILE)
    await engine.start()
    try:
        fine, failed = await asyncio.gather(
            ask(engine, request("a", "good")), ask(engine, request("b", "bad")), return_exceptions=True
        )
    finally:
        await engine.close()
    assert getattr(fine, "text", None) == "7"
    assert isinstance(failed, EngineError)


async def test_closing_ends_what_is_in_flight_with_an_error() -> None:
    engine = ScriptedEngine(lambda messages: settling(7), PROFILE, seconds_per_step=0.01)
    await engine.start()
    asked = asyncio.create_task(ask(engine, request("a", "anything")))
    while not engine.running:
        await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineError, match="shut down"):
        await asked
    assert engine.running == 0


def test_words_come_back_as_their_text() -> None:
    text = "a=14;b\n\n two  spaces \nend"
    assert "".join(split_words(text)) == text


def test_scripts_are_read_from_a_folder(tmp_path: Path) -> None:
    answers = [{"since": 0, "text": "4"}, {"since": 3, "text": "5", "probability": 1.0}]
    script = {"thinking": "one two\n", "answers": answers, "margins": {"2": 0.5}}
    (tmp_path / "script.json").write_text(json.dumps({"*": script}))
    found = read_scripts(str(tmp_path))([{"role": "user", "content": "whatever"}])
    assert found.thinking == ("one ", "two", "\n")
    assert found.answer_after(3).words == ("5",)
    assert found.margins == {2: 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read script.json"),
        ('{"*": {"thinking": "a"}}', "a script needs thinking"),
        ('{"*": {"thinking": "a", "answers": [{"since": 1, "text": "4"}]}}', "answers must begin with one since 0"),
        (
            '{"*": {"thinking": "a", "answers": [{"text": "4", "probability": 2}]}}',
            r"probability must be in \(0, 1\], got 2",
        ),
    ],
)
def test_an_unusable_script_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "script.json").write_text(content)
    with pytest.raises(EngineError, match=message):
        read_scripts(str(tmp_path))
