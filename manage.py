#!/usr/bin/env python3
"""Django's command line for Curtail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def main() -> int:
    """Run one management command; configuration errors end with one line and status 2."""
    for folder in (str(ROOT), str(ROOT / "platform")):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "curtail.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError as error:
        print(
            f"curtail: {error.name} is missing in {sys.executable}; "
            "run `make install`, then .venv/bin/python manage.py",
            file=sys.stderr,
        )
        return 2
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        print(f"curtail: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
