r"""Extraction: where in a text its answer is.

A model profile's ``answer_pattern`` says it in one text:

======================  =============================================================================
(empty)                 all of the text
``boxed:``              what the last complete ``\boxed{...}`` (or ``\fbox{...}``) holds
``final:``              what follows the last "final answer is" or "final answer:" on its line
``json:path.to.field``  a field of the last JSON object in the text; numbers in the path index arrays
anything else           a regular expression: its first group, or all of it, at its last match
======================  =============================================================================

Every probe extracts, from texts that were cut anywhere, so our own extractors take linear time and never
raise. How long a regular expression takes is its author's affair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from experiments.grading.options import pattern_fault

MAX_PATTERN_LENGTH = 256
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*+\{|\\.|[{}]", re.DOTALL)
_FINAL = re.compile(r"\bfinal\s++answer\s*+\**+\s*+(?:is\b\s*+:?+|:)\s*+\**+\s*+", re.IGNORECASE)
# "I hope it is correct", which few-shot prompts of mathematics teach models to end with.
_HOPE = re.compile(r"\bI hope (?:it|this|that)\b", re.IGNORECASE)
# A string of JSON holds no bare newline, so that a stray quotation mark swallows no more than its line. One that
# does not close is taken whole all the same: looked for from each of its quotation marks, it would cost the square.
_STRING_OR_BRACE = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|[{}]')
_JSON_PATH = re.compile(r"[^.\s]+(?:\.[^.\s]+)*")
_INDEX = re.compile(r"[0-9]{1,6}")
_QUOTES = (("**", "**"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def extract_answer(text: str, pattern: str = "") -> str:
    """The answer within the text after thinking.

    Args:
        text: what the model wrote after its thinking; it may have been cut anywhere.
        pattern: where the answer is, see the module.

    Returns:
        The answer without outer white space; empty where the text has none.
    """
    if not pattern:
        return text.strip()
    name, colon, rest = pattern.partition(":")
    extractor = _EXTRACTORS.get(name) if colon else None
    return (extractor(text, rest) if extractor else _last_match(text, pattern)).strip()


def check_answer_pattern(pattern: str) -> None:
    """Raise ValueError, saying what is wrong, unless :func:`extract_answer` can use ``pattern``."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ValueError(f"answer_pattern must have at most {MAX_PATTERN_LENGTH} characters, got {len(pattern)}")
    name, colon, rest = pattern.partition(":")
    if colon and name in ("boxed", "final"):
        if rest:
            raise ValueError(f"answer_pattern {name}: takes nothing after the colon, got {rest!r}")
    elif colon and name == "json":
        if not _JSON_PATH.fullmatch(rest):
            raise ValueError(f"answer_pattern json: needs a path such as result.answer, got {rest!r}")
    elif (fault := pattern_fault(pattern)) is not None:
        raise ValueError(f"answer_pattern is no regular expression: {fault}")


def _last_match(text: str, pattern: str) -> str:
    last = None
    for match in re.finditer(pattern, text):
        last = match
    if last is None:
        return ""
    return (last.group(1) or "") if last.re.groups else last.group(0)


def _last_boxed(text: str, _: str = "") -> str:
    """The box that opens last among those that close; one that was cut off is none."""
    opened: list[tuple[int, bool]] = []
    best, answer = -1, ""
    for token in _BOX_OR_BRACE.finditer(text):
        if token[0] == "}":
            start, boxed = opened.pop() if opened else (-1, False)
            if boxed and start > best:
                best, answer = start, text[start : token.start()]
        elif token[0].endswith("{") and token[0] != r"\{":
            opened.append((token.end(), token[0] != "{"))
    return answer


def _final_answer(text: str, _: str = "") -> str:
    last = None
    for match in _FINAL.finditer(text):
        last = match
    if last is None:
        return ""
    line = text[last.end() :].partition("\n")[0]
    hope = _HOPE.search(line)
    if hope is not None:
        line = line[: hope.start()]
    return _last_boxed(line) or _bare(line)


def _bare(line: str) -> str:
    """The line without its full stop and what it is set in: emphasis or LaTeX's delimiters."""
    line = line.strip().removesuffix(".").rstrip()
    for opening, closing in _QUOTES:
        inner = line.removeprefix(opening).removesuffix(closing)
        if len(inner) == len(line) - len(opening) - len(closing) and closing not in inner:
            line = inner.strip().removesuffix(".").rstrip()
    # Emphasis that opened before the words "final answer" closes here.
    return line.removesuffix("**").rstrip().removesuffix(".").rstrip()


def _json_field(text: str, path: str) -> str:
    for start, end in reversed(_outermost_braces(text)):
        try:
            # As it is written: 0.10 stays 0.10, and no digits are too many.
            found = _walk(_load(text[start:end], _Number), path)
            if found is not _MISSING:
                return _shown(found)
        except (ValueError, RecursionError):
            continue
    return ""


def _outermost_braces(text: str) -> list[tuple[int, int]]:
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    for token in _STRING_OR_BRACE.finditer(text):
        if token[0] == "{":
            opened.append(token.start())
        elif token[0] == "}" and opened:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, token.end()))
    return spans


class _Number(str):
    """A number of JSON, spelt as it was."""

    __slots__ = ()


_MISSING = object()


def _load(text: str, number: Callable[[str], Any]) -> Any:
    return json.loads(text, parse_int=number, parse_float=number, parse_constant=number)


def _walk(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return _MISSING
    return value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(_spelt(value), ensure_ascii=False, separators=(",", ":"))
    # JSON may spell half a surrogate pair, which no text in UTF-8 can hold.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _spelt(value: Any) -> Any:
    """Arrays and objects as JSON writes them again: their numbers are numbers."""
    if isinstance(value, _Number):
        return json.loads(value)
    if isinstance(value, list):
        return [_spelt(item) for item in value]
    if isinstance(value, dict):
        return {key: _spelt(item) for key, item in value.items()}
    return value


_EXTRACTORS: Mapping[str, Callable[[str, str], str]] = {
    "boxed": _last_boxed,
    "final": _final_answer,
    "json": _json_field,
}
