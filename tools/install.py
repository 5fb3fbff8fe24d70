"""Make or update .venv: `python3.11 tools/install.py [--dev]`, or `make install`.

This file only looks at the version, in words that every Python understands; installer.py does the work.
"""

import os
import sys

MINIMUM = (3, 11)

if __name__ == "__main__":
    if sys.version_info[:2] < MINIMUM:
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.stderr.write("curtail: Python 3.11 or newer is needed, " + sys.executable + " is " + found)
        sys.stderr.write("; name another one with `make PYTHON=/path/to/python3.11 ...`\n")
        sys.exit(2)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from installer import main

    sys.exit(main(sys.argv[1:]))
