"""What every grader is: a name, a version, options, and a judgement on an answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from experiments.grading.normaliser import normalise_answer
from experiments.grading.options import options_of

MAX_REFERENCE_LENGTH = 10_000


@dataclasses.dataclass(frozen=True)
class Grader(ABC):
    """A named, versioned judge of correctness; its fields are its options.

    Attributes:
        name: its name in model profiles and labels.
        version: raised whenever the same answer, reference and options may be judged differently.
        timeout_seconds: how long one judgement may take where the grader is isolated.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    timeout_seconds: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            object.__setattr__(self, name, option.checked(name, getattr(self, name)))

    @property
    def options(self) -> dict[str, Any]:
        """Every option by name, as JSON values."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def identity(self) -> str:
        """What two labels must have in common to be counted together: name/version[/hash of the options].

        By content: graders that judge alike because they are declared alike have the same identity.
        """
        base = f"{self.name}/{self.version}"
        if not self.options:
            return base
        canonical = json.dumps(self.options, sort_keys=True, separators=(",", ":"))
        return f"{base}/{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"

    @property
    def isolated(self) -> bool:
        """Whether a judgement may take any time, so that it needs a process that can be killed."""
        return False

    def check_reference(self, reference: str) -> None:
        """Raise ValueError where nothing could ever match ``reference``."""
        if not normalise_answer(reference):
            raise ValueError(f"reference must not be empty, got {reference!r}")

    def grade(self, answer: str, reference: str) -> bool:
        """Whether ``answer`` matches ``reference``.

        Raises:
            ValueError: nothing could ever match the reference.
        """
        self.check_reference(reference)
        return self._matches(answer, reference)

    @abstractmethod
    def _matches(self, answer: str, reference: str) -> bool:
        """The judgement, of a reference that passed its check."""
