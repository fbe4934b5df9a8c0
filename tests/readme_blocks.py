"""Fenced blocks of the documentation whose info string says what a test does with them.

```bash run     executed, in one folder per file, in order
```bash run slow    the same, by `make test-slow`
```bash smoke   cut down: astro-train to a tiny preflight, other commands to their --help, make to `make -n`
```bash show    not executed: options must exist, overrides must compose, make targets must be there
```python run   executed
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks", "commands"]

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("run", "smoke", "show")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, its marks, its text."""

    file: Path
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """File and line, for test ids."""
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(kind: str | None = None) -> list[Block]:
    """Marked blocks of README.md, CONTRIBUTING.md and docs/, in order."""
    found = []
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if not file.exists():
            continue
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(bash|python)([^\n]*)\n(.*?)^```", text, flags=re.S | re.M):
            block = Block(
                file,
                text[: match.start()].count("\n") + 1,
                match[1],
                tuple(match[2].split()),
                match[3],
            )
            if kind is None or kind in block.marks:
                found.append(block)
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command; continuation lines are joined, comments and prompts dropped."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    found = []
    for line in joined.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]  # environment variables before a command
        for stop in ("|", ">", "&&", "2>&1"):
            if stop in words:
                words = words[: words.index(stop)]
        if words:
            found.append(words)
    return found
