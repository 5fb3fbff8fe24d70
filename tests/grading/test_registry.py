"""Graders by name, version and options."""

from __future__ import annotations

import math
import re

import pytest

from experiments.grading import GRADERS, NORMALISER_VERSION, grader_by_name, grader_from_spec


def test_a_grader_has_a_name_and_a_version() -> None:
    grader = grader_by_name("exact_match")
    assert (grader.name, grader.version) == ("exact_match", NORMALISER_VERSION)


def test_an_unknown_grader_is_refused_with_the_known_ones() -> None:
    known = "exact_match, plain, numeric, multiple_choice, math_verify"
    with pytest.raises(ValueError, match=f"grader must be one of {known}, got 'judge'"):
        grader_by_name("judge")


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_a_grader_comes_back_from_its_options(name: str) -> None:
    grader = grader_by_name(name)
    assert grader_from_spec(name, grader.options) == grader


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("plain", [], "grader_options must be an object, got []"),
        ("plain", {"case": True}, "grader plain has no option case; it takes ignore_case, ignore_punctuation"),
        ("exact_match", {"case": True}, "grader exact_match has no option case; it takes none"),
        ("plain", {"ignore_case": 1}, "ignore_case must be true or false, got 1"),
        ("plain", {"regexes_to_ignore": "the"}, "regexes_to_ignore must be a list of regular expressions, got 'the'"),
        ("plain", {"regexes_to_ignore": ["a", "(b"]}, "regexes_to_ignore[2] is no regular expression: missing )"),
        ("plain", {"regexes_to_ignore": [""]}, "regexes_to_ignore[1] must have from 1 to 256 characters, got 0"),
        ("plain", {"regexes_to_ignore": ["a"] * 17}, "regexes_to_ignore must have at most 16 entries, got 17"),
        ("numeric", {"absolute_tolerance": -1}, "absolute_tolerance must be from 0 to 1e+300, got -1"),
        ("numeric", {"absolute_tolerance": math.nan}, "absolute_tolerance must be a number, got nan"),
        ("numeric", {"relative_tolerance": 1.5}, "relative_tolerance must be from 0 to 1, got 1.5"),
        ("numeric", {"relative_tolerance": True}, "relative_tolerance must be a number, got True"),
        ("numeric", {"percent": "points"}, "percent must be one of fraction, ignore, got 'points'"),
        ("multiple_choice", {"letters": "A"}, "letters must be from 2 to 26 letters from A to Z, got 'A'"),
        ("multiple_choice", {"letters": "ABa"}, "letters must not name a letter twice, got 'ABa'"),
        ("math_verify", {"float_rounding": 16}, "float_rounding must be from 0 to 15, got 16"),
        ("math_verify", {"float_rounding": 2.0}, "float_rounding must be an integer, got 2.0"),
    ],
)
def test_a_bad_option_is_refused_with_its_bound(name: str, options: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        grader_from_spec(name, options)


def test_options_belong_to_the_identity() -> None:
    assert grader_from_spec("plain", {"ignore_case": True}).identity != grader_by_name("plain").identity


def test_the_same_options_written_otherwise_are_the_same_grading() -> None:
    one = grader_from_spec("numeric", {"relative_tolerance": 0, "percent": "fraction"})
    assert one.identity == grader_by_name("numeric").identity


@pytest.mark.parametrize(
    ("name", "identity"),
    [("exact_match", "exact_match/1"), ("plain", "plain/1/"), ("math_verify", "math_verify/1/")],
)
def test_an_identity_starts_with_name_and_version(name: str, identity: str) -> None:
    assert grader_by_name(name).identity.startswith(identity)
