"""The process that judges one answer after the other, and may be killed at any time.

It reads tasks from standard input and writes judgements to standard output, one JSON object a line. Nothing of
Django is loaded here: starting anew must be cheap.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any

from experiments.grading import MATH_VERIFY_RELEASE, Grader, MathVerify, grader_from_spec

READY = "ready"
# Whoever started us starts another when it needs one.
_IDLE_SECONDS = 120.0
_MEMORY_BYTES = 4 << 30
_DELIMITED = re.compile(r"\$|\\(?:boxed|fbox)|\\\(|\\\[")
# In LaTeX a word is text only inside these; bare letters are variables.
_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname|mbox|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}")
_FUNCTIONS = frozenset(
    (
        "sqrt",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "exp",
    )
)


def main() -> None:
    """Judge until standard input ends, or nothing came for two minutes."""
    # What a library prints must not be taken for a judgement.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # A power tower can ask for any amount of memory before it asks for time.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # The library warns that its own time limits are off; ours is the kill.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    _judge_mathematics(MathVerify(), r"\frac{1}{2}", "0.5")  # pays for the imports before the clock runs
    print(READY, file=output, flush=True)
    source = sys.stdin.buffer
    while select.select([source], [], [], _IDLE_SECONDS)[0] and (line := source.readline()):
        task = json.loads(line)
        # For the case that nobody is left to kill us: the signal's default ends the process.
        signal.setitimer(signal.ITIMER_REAL, 2 * task["seconds"] + 1)
        answer = json.dumps(judge(task))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(answer, file=output, flush=True)


def judge(task: Mapping[str, Any]) -> dict[str, Any]:
    """Judge one answer: ``correct``, or ``failure`` (reference or judge) with its ``detail``."""
    try:
        grader = grader_from_spec(task["grader"], task["options"])
        return {"correct": _judge(grader, task["answer"], task["reference"])}
    except ValueError as error:
        return {"failure": "reference", "detail": str(error)}
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError) as error:
        return {"failure": "judge", "detail": f"{type(error).__name__}: {error}"}


def _judge(grader: Grader, answer: str, reference: str) -> bool:
    if not isinstance(grader, MathVerify):
        return grader.grade(answer, reference)
    grader.check_reference(reference)
    return _judge_mathematics(grader, answer, reference)


def _judge_mathematics(grader: MathVerify, answer: str, reference: str) -> bool:
    from math_verify import verify

    installed = importlib.metadata.version("math-verify")
    if installed != MATH_VERIFY_RELEASE:
        raise TypeError(f"math_verify version {grader.version} is release {MATH_VERIFY_RELEASE}, not {installed}")
    wanted = _parsed(reference)
    if not wanted:
        raise ValueError(f"reference must be mathematics, got {reference[:80]!r}")
    return bool(
        verify(
            wanted,
            _parsed(answer),
            float_rounding=grader.float_rounding,
            strict=grader.strict,
            timeout_seconds=None,
        )
    )


def _parsed(text: str) -> list[Any]:
    """What math-verify reads in the text.

    It looks for LaTeX only between delimiters, which references and extracted answers lack: they get them, unless
    they are sentences.
    """
    from math_verify import parse

    delimited = f"${text.strip()}$"
    if _DELIMITED.search(text):
        ways = [text]
    elif any(word.lower() not in _FUNCTIONS for word in _WORD.findall(_COMMAND.sub(" ", text))):
        ways = [text, delimited]
    else:
        ways = [delimited, text]
    for way in ways:
        if text.strip() and (found := parse(way, parsing_timeout=None)):
            return list(found)
    return []


if __name__ == "__main__":
    main()
