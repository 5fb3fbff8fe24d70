"""Bringing many rows into the database at once: COPY into a temporary table, then one statement from there."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection


def stage(cursor: Any, name: str, table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    """COPY lines into a temporary table of some columns of a table.

    It has their names and types, but no constraints, and goes with the transaction.

    Args:
        cursor: in a transaction.
        name: of the temporary table; one that the transaction has already is emptied.
        table: whose columns.
        columns: names.
        lines: in COPY's text format, each with its line feed.
    """
    names = ", ".join(columns)
    cursor.execute(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ON COMMIT DROP AS SELECT {names} FROM {table} WITH NO DATA"
    )
    cursor.execute(f"TRUNCATE {name}")
    cursor.copy_expert(f"COPY {name} ({names}) FROM STDIN", io.StringIO("".join(lines)))


def upsert(
    table: str, columns: Sequence[str], key: Sequence[str], changed: Sequence[str], lines: Iterable[str]
) -> None:
    """Insert many rows, or give those that exist other values in some columns.

    Args:
        table: where.
        columns: of the lines, in their order.
        key: columns of a unique constraint.
        changed: the columns that an existing row gets anew.
        lines: in COPY's text format, each with its line feed.
    """
    names, staged = ", ".join(columns), f"stage_{table}"
    anew = ", ".join(f"{name} = excluded.{name}" for name in changed)
    with connection.cursor() as cursor:
        stage(cursor, staged, table, columns, lines)
        cursor.execute(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM {staged} "
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {anew}"
        )
