"""Seconds until `astro-train --help` and `astro-train +experiment=specclip --cfg job` have answered.

python benchmarks/cli_latency.py
"""

import subprocess
import sys
from pathlib import Path

from _common import header, median_of


def main() -> None:
    """Measures and prints."""
    header()
    command = str(Path(sys.executable).with_name("astro-train"))
    for words, limit in ((["--help"], 0.5), (["+experiment=specclip", "--cfg", "job"], 2.0)):

        def run(words: list[str] = words) -> None:
            subprocess.run([command, *words], check=True, stdout=subprocess.DEVNULL)

        print(f"astro-train {' '.join(words)}: {median_of(run)}  (wanted: at most {limit} s)")


if __name__ == "__main__":
    main()
