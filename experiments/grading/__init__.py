"""Grading: what counts as the answer, when two answers are equal, and exact match (EM). Pure.

Every grader has a name, a version and options; all three are stored with every label, because the
grader alone moves scores.
"""

from __future__ import annotations

from experiments.grading.base import MAX_REFERENCE_LENGTH, Grader
from experiments.grading.exact_match import ExactMatch
from experiments.grading.extraction import MAX_PATTERN_LENGTH, check_answer_pattern, extract_answer
from experiments.grading.mathematics import MATH_VERIFY_RELEASE, MathVerify
from experiments.grading.multiple_choice import MultipleChoice
from experiments.grading.normaliser import NORMALISER_VERSION, normalise_answer
from experiments.grading.numeric import Numeric
from experiments.grading.plain import Plain
from experiments.grading.registry import GRADERS, grader_by_name, grader_from_spec

__all__ = [
    "GRADERS",
    "MATH_VERIFY_RELEASE",
    "MAX_PATTERN_LENGTH",
    "MAX_REFERENCE_LENGTH",
    "NORMALISER_VERSION",
    "ExactMatch",
    "Grader",
    "MathVerify",
    "MultipleChoice",
    "Numeric",
    "Plain",
    "check_answer_pattern",
    "extract_answer",
    "grader_by_name",
    "grader_from_spec",
    "normalise_answer",
]
