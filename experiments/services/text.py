"""Text that the database can hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def without_nul(text: str) -> str:
    """The text; ValueError when PostgreSQL could not hold it."""
    if "\x00" in text:
        raise ValueError("must not hold the character NUL (U+0000)")
    return text


Text = Annotated[str, AfterValidator(without_nul)]
