"""What a segment of the report may be called, wherever one is named. Pure."""

from __future__ import annotations

import re

SEGMENT = re.compile(r"[-.\w]{1,40}", re.ASCII)
