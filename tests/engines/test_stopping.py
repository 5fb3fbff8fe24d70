"""Stop strings are found however the text is cut, and nothing of them is given out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.engines.stopping import StopScanner

texts = st.text("ab", max_size=20)
stops = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)


def scanned(pieces: list[str], strings: list[str]) -> tuple[list[str], bool]:
    scanner = StopScanner(strings)
    shown = [scanner.take(piece) for piece in pieces]
    return ([*shown, scanner.release()] if not scanner.found else shown), scanner.found


@given(texts, stops, st.lists(st.integers(0, 20), max_size=6))
def test_the_cut_of_the_text_into_pieces_makes_no_difference(text: str, strings: list[str], cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    parts, found = scanned(pieces, strings)
    whole, found_whole = scanned(list(text), strings)
    assert ("".join(parts), found) == ("".join(whole), found_whole)


@given(texts, stops)
def test_text_up_to_the_first_stop_string_that_is_complete(text: str, strings: list[str]) -> None:
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in strings)]
    expected = text
    if ends:
        said = text[: ends[0]]
        expected = said[: -max(len(stop) for stop in strings if said.endswith(stop))]
    parts, found = scanned([text], strings)
    assert ("".join(parts), found) == (expected, bool(ends))


def test_only_what_could_begin_a_stop_string_is_held_back() -> None:
    scanner = StopScanner(["\n\nQ:"])
    assert [scanner.take(piece) for piece in ("a\n", "\nb", "\n", "\nQ", ":more")] == ["a", "\n\nb", "", "", ""]
    assert scanner.found


def test_without_stop_strings_text_passes() -> None:
    assert StopScanner([]).take("anything") == "anything"
