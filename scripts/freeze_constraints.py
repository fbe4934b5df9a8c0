"""Writes constraints.txt from the packages of the environment it runs in.

python scripts/freeze_constraints.py            # rewrites constraints.txt beside pyproject.toml
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

HEADER = (
    "# Exact versions for `pip install -c constraints.txt`, resolved and tested with CPython 3.11 on Linux.\n"
    "# Made by scripts/freeze_constraints.py. The index chooses torch's CPU or CUDA build.\n"
)
LEFT_OUT = {"astro-train", "pip", "setuptools", "wheel"}


def lines() -> list[str]:
    """`name==version` of every installed distribution, without local versions such as +cpu."""
    found = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in LEFT_OUT:
            found[name] = f"{name}=={distribution.version.split('+')[0]}"
    return [found[name] for name in sorted(found)]


def main() -> int:
    """Writes the file and says how many versions it holds."""
    target = Path(__file__).resolve().parent.parent / "constraints.txt"
    content = lines()
    target.write_text(HEADER + "\n".join(content) + "\n", encoding="utf-8")
    print(f"{target}: {len(content)} versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
