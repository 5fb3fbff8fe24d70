"""Judgements that may take any time: in a few processes, each of which is killed when it overruns.

Time limits by signal do not work in threads, and a thread that computes cannot be stopped; a process can.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from django.conf import settings

from experiments.grading import Grader
from experiments.services import judge_process

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-m", judge_process.__name__)
# Importing sympy on a busy machine.
_START_SECONDS = 120.0
MAX_DETAIL_LENGTH = 200
TIMEOUT, REFERENCE, JUDGE = "timeout", "reference", "judge"


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to be judged."""

    grader: Grader
    answer: str
    reference: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a task.

    Attributes:
        correct: the judgement; None where there is none.
        failure: why there is none: ``timeout`` (it was killed), ``reference`` (nothing could match it) or
            ``judge`` (the judging itself failed); empty otherwise.
        detail: the failure in words, at most 200 characters.
    """

    correct: bool | None
    failure: str = ""
    detail: str = ""


class JudgePool:
    """Processes that judge, started when they are needed.

    Args:
        size: how many at most.
        command: what to run; it speaks as :mod:`experiments.services.judge_process` does.
    """

    def __init__(self, size: int, command: Sequence[str] = _COMMAND) -> None:
        self._command = tuple(command)
        self._size = size
        self._places = threading.BoundedSemaphore(size)
        self._idle: list[_Process] = []

    def judge(self, tasks: Sequence[Task], *, within: float | None = None) -> list[Judgement | None]:
        """The judgements of the tasks, in their order.

        Args:
            tasks: what to judge; each has its grader's ``timeout_seconds``.
            within: seconds after which no further task is begun.

        Returns:
            The judgements in the order of the tasks; None for those that were not begun, be it that the time
            was up or that no process could be started. Whoever asks again later loses nothing.
        """
        end = None if within is None else time.monotonic() + within

        def one(task: Task) -> Judgement | None:
            with self._places:
                return None if end is not None and time.monotonic() >= end else self._judge(task)

        if not tasks:
            return []
        with ThreadPoolExecutor(min(self._size, len(tasks)), thread_name_prefix="judge") as threads:
            return list(threads.map(one, tasks))

    def close(self) -> None:
        """End the processes that are idle."""
        while self._idle:
            self._idle.pop().kill()

    def _judge(self, task: Task) -> Judgement | None:
        message = json.dumps(
            {
                "grader": task.grader.name,
                "options": task.grader.options,
                "answer": task.answer,
                "reference": task.reference,
                "seconds": task.grader.timeout_seconds,
            }
        ).encode()
        # One that was idle may have left in this moment: that is no failure of the task.
        for last_try in (False, True):
            with self._process() as process:
                try:
                    return _judgement(process.ask(message, task.grader.timeout_seconds))
                except TimeoutError:
                    seconds = task.grader.timeout_seconds
                    return Judgement(None, TIMEOUT, f"{task.grader.name} timed out after {seconds:g} seconds")
                except _NotStarted as error:
                    if last_try:
                        logger.error("no process that judges can be started: %s", error)
                        return None
                except (OSError, ValueError) as error:
                    if last_try:
                        return Judgement(None, JUDGE, f"the judging process ended: {error}"[:MAX_DETAIL_LENGTH])
        raise AssertionError("the second try returns")

    @contextmanager
    def _process(self) -> Iterator[_Process]:
        """A process of one's own, which is used again unless it failed."""
        process = None
        with suppress(IndexError):
            process = self._idle.pop()
        if process is None:
            process = _Process(self._command)
        try:
            yield process
        finally:
            if process.alive:
                self._idle.append(process)
            else:
                process.kill()


class _NotStarted(Exception):
    """The process ended, or hung, before its first task: that is no task's fault."""


class _Process:
    def __init__(self, command: Sequence[str]) -> None:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            cwd=_ROOT,
            # The terminal's Ctrl-C is for us.
            start_new_session=True,
        )
        self.alive = True
        self._started = False

    def ask(self, message: bytes, seconds: float) -> bytes:
        """Send a line and return the line that answers it.

        Raises:
            TimeoutError: none came in time.
            OSError: the process ended.
        """
        assert self._child.stdin is not None
        alive, self.alive = self.alive, False
        if not alive:
            raise BrokenPipeError("it has ended")
        if not self._started:
            try:
                self._line(_START_SECONDS)
            except OSError as error:
                raise _NotStarted(f"{type(error).__name__} {error}".strip()) from error
            self._started = True
        self._child.stdin.write(message + b"\n")
        self._child.stdin.flush()
        answer = self._line(seconds)
        self.alive = True
        return answer

    def kill(self) -> None:
        """End it at once."""
        self.alive = False
        self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._child.wait()

    def _line(self, seconds: float) -> bytes:
        assert self._child.stdout is not None
        end, received = time.monotonic() + seconds, b""
        while not received.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not _readable(self._child.stdout.fileno(), left):
                raise TimeoutError
            chunk = os.read(self._child.stdout.fileno(), 65_536)
            if not chunk:
                raise BrokenPipeError(f"exit status {self._child.wait()}")
            received += chunk
        return received


def _readable(descriptor: int, seconds: float) -> bool:
    # Not select(): it cannot take descriptors from 1024 on, which a gateway has.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def _judgement(line: bytes) -> Judgement:
    data = json.loads(line)
    if "failure" in data:
        return Judgement(None, data["failure"], data["detail"][:MAX_DETAIL_LENGTH])
    return Judgement(data["correct"])


@cache
def judges() -> JudgePool:
    """The pool of this process."""
    pool = JudgePool(settings.JUDGE_PROCESSES)
    atexit.register(pool.close)
    return pool


# A forked child must not talk to its parent's judges.
os.register_at_fork(after_in_child=judges.cache_clear)
