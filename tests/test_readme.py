"""What the documentation shows is executed, cut down or parsed, as its marks say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from astroclip_train.cli import model as model_cli
from astroclip_train.cli import train as train_cli
from tests.readme_blocks import KINDS, ROOT, Block, blocks, commands

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """One working folder for each documentation file, so that later blocks find what earlier ones made."""
    made: dict[Path, Path] = {}
    return lambda file: made.setdefault(file, tmp_path_factory.mktemp(file.stem.lower()))


def shell(text: str, folder: Path) -> None:
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_WAIT_POLICY": "passive",
        "ASTRO_TRAIN_SOURCE": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def params(kind: str) -> list:
    found = blocks(kind)
    return [
        pytest.param(b, id=b.name, marks=[pytest.mark.slow] if "slow" in b.marks else []) for b in found
    ] or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"no block is marked {kind}"))]


@pytest.mark.parametrize("block", params("run"))
def test_run(block: Block, folders):
    if block.language == "bash":
        shell(block.text, folders(block.file))
    else:
        script = folders(block.file) / "block.py"
        script.write_text(block.text)
        shell(f"{sys.executable} {script}", folders(block.file))


@pytest.mark.parametrize("block", params("smoke"))
def test_smoke(block: Block, folders):
    for words in commands(block):
        parse(words)
        short = cut(words)
        if short is not None:
            shell(short, ROOT if words[0] == "make" else folders(block.file))


@pytest.mark.parametrize("block", params("show"))
def test_show(block: Block):
    for words in commands(block):
        parse(words)


def test_every_command_block_is_marked():
    for block in blocks():
        if block.language == "bash":
            assert any(kind in block.marks for kind in KINDS), (
                f"{block.name} says neither run, smoke nor show"
            )


def cut(words: list[str]) -> str | None:
    """A command that takes seconds in place of one that takes minutes; None where there is none."""
    if words[0] == "astro-train":
        options = train_cli.parser().parse_known_intermixed_args(words[1:])[0]
        if options.help or options.cfg:
            return " ".join(map(quoted, words))
        overrides = [
            o for o in plain_overrides(words) if not o.startswith(("scale=", "run.root=", "dataset"))
        ]
        return " ".join(
            ["astro-train", *map(quoted, overrides), "scale=tiny", "run.preflight=true", "run.root=smoke"]
        )
    if words[0] in ("astro-data", "astro-model"):
        return f"{words[0]} {words[1]} --help"
    return " ".join(["make", "-n", *words[1:]]) if words[0] == "make" else None


def parse(words: list[str]) -> None:
    """Fails where a command names an option, a group choice, a key or a target that does not exist."""
    if words[0] == "make":
        known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
        asked = {w for w in words[1:] if "=" not in w and not w.startswith("-")}
        assert asked <= known, f"make has no target {asked - known}"
    elif words[0] == "astro-train":
        compose_shown(words)
    elif words[0] == "astro-model":
        options = model_cli.parser().parse_args(words[1:])
        if options.command == "describe" and any("=" in w for w in options.what):
            compose_shown(["astro-train", *options.what])
    elif words[0] == "astro-data":
        from astroclip_train.cli import data as data_cli

        data_cli.parser().parse_args(words[1:])


def compose_shown(words: list[str]) -> None:
    from astroclip_train.config.compose import compose

    options, unknown = train_cli.parser().parse_known_intermixed_args(words[1:])
    assert not unknown, f"astro-train has no option {unknown}"
    if not options.help and not options.version:
        compose(plain_overrides(words), options.config_dir)


def plain_overrides(words: list[str]) -> list[str]:
    """The overrides of a command, each sweep `key=a,b,c` or `key=interval(a,b)` cut to its first value."""
    options = train_cli.parser().parse_known_intermixed_args(words[1:])[0]
    if not options.multirun:
        return options.overrides
    first = [re.sub(r"=[\w(,]*interval\(([^,]+),.*$", r"=\1", o) for o in options.overrides]
    return [re.sub(r"=([^\[\]{},]+),.*$", r"=\1", o) for o in first]


def quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\s\[\]{}$*]", word) else word
