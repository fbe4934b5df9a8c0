"""The part that docs/add_a_part.md adds passes what every part must, and trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_documented_part_is_a_sound_part(tmp_path):
    for folder in ("astroclip_train", "conf", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    document = (ROOT / "docs/add_a_part.md").read_text()
    blocks = re.findall(r"^`((?:astroclip_train|conf)/\S+)`\n\n```\w+\n(.*?)^```", document, re.M | re.S)
    assert [Path(name).suffix for name, _ in blocks] == [".py", ".yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)

    def python(*words: str, limit: int = 300) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    assert str(tmp_path) in python("-c", "import astroclip_train; print(astroclip_train.__file__)")
    tests = ["tests/encoders", "tests/objectives", "tests/config", "-m", "not slow", "-k", "linear or Linear"]
    passed = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert int(re.search(r"(\d+) passed", passed)[1]) > 8
    chosen = blocks[1][1].split("Command: astro-train ")[1].split(" (")[0].split()
    assert "11,008" in python("-m", "astroclip_train.cli.model", "describe", *chosen)
    options = [
        "scale=tiny",
        "run.stages=[xp]",
        "evaluation.report=false",
    ]
    run = python("-m", "astroclip_train.cli.train", *chosen, *options).strip()
    assert (tmp_path / run / "stages/xp/done.json").exists()
