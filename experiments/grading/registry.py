"""The graders by name, and from what a model profile holds: a name and options."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.grading.base import Grader
from experiments.grading.exact_match import ExactMatch
from experiments.grading.mathematics import MathVerify
from experiments.grading.multiple_choice import MultipleChoice
from experiments.grading.numeric import Numeric
from experiments.grading.options import options_of
from experiments.grading.plain import Plain

GRADERS: Mapping[str, type[Grader]] = {
    grader.name: grader for grader in (ExactMatch, Plain, Numeric, MultipleChoice, MathVerify)
}


def grader_by_name(name: str) -> Grader:
    """The grader of that name with its default options; ValueError lists the known ones."""
    return grader_from_spec(name)


def grader_from_spec(name: str, options: object = None) -> Grader:
    """The grader of that name with these options; what is left out has its default.

    Raises:
        ValueError: the grader or an option is unknown, or an option is out of bounds; the message names it.
    """
    cls = GRADERS.get(name)
    if cls is None:
        raise ValueError(f"grader must be one of {', '.join(GRADERS)}, got {name!r}")
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise ValueError(f"grader_options must be an object, got {options!r}")
    known = options_of(cls)
    if unknown := sorted(str(option) for option in options if option not in known):
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"grader {name} has no option {', '.join(unknown)}; {takes}")
    return cls(**options)
