"""Print the project's dependencies, one a line, for `pip install -r`.

    python scripts/requirements.py [--build] [EXTRA ...]

One list lives in pyproject.toml; this only reads it (pip has no "dependencies only" install).
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(words: list[str]) -> int:
    """Print the requirements of the project, of its build, and of the extras named."""
    file = Path(__file__).resolve().parent.parent / "pyproject.toml"
    config = tomllib.loads(file.read_text())
    project = config["project"]
    requirements = list(project["dependencies"])
    for word in words:
        if word == "--build":
            requirements += config["build-system"]["requires"]
        elif word in project["optional-dependencies"]:
            requirements += project["optional-dependencies"][word]
        else:
            known = ", ".join(project["optional-dependencies"])
            print(f"no extra named {word}; one of {known}", file=sys.stderr)
            return 2
    print("\n".join(dict.fromkeys(requirements)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
