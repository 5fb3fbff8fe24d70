"""The index of trained checkpoints: which there are, where, and how good. Pure Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
_INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One checkpoint of a training run.

    Attributes:
        step: optimiser steps taken.
        path: its directory (absolute when read from an index).
        validation_em: exact match of full greedy decoding on prompts of the tuning split, 0..1.
        validation_loss: mean cross-entropy of thinking and answer tokens there, nats per token.
    """

    step: int
    path: Path
    validation_em: float
    validation_loss: float


def read_index(directory: Path = CHECKPOINTS) -> list[CheckpointEntry]:
    """The checkpoints under ``directory``, by rising step.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: an entry lacks a field or names a directory that is missing.
    """
    entries = []
    for record in json.loads((directory / _INDEX).read_text(encoding="utf-8")):
        try:
            path = directory / record["path"]
            entry = CheckpointEntry(
                int(record["step"]), path, float(record["validation_em"]), float(record["validation_loss"])
            )
        except KeyError as error:
            raise ValueError(f"{_INDEX}: an entry lacks the field {error}: {record}") from error
        if not path.is_dir():
            raise ValueError(f"{_INDEX}: path must be a directory beside the index, got {record['path']!r}")
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.step)


def write_index(entries: list[CheckpointEntry], directory: Path) -> None:
    """Write the index of ``directory``; paths are stored by their last part."""
    records = [
        {
            "step": entry.step,
            "path": entry.path.name,
            "validation_em": round(entry.validation_em, 4),
            "validation_loss": round(entry.validation_loss, 4),
        }
        for entry in entries
    ]
    (directory / _INDEX).write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
