"""The package runs from an empty folder: as it is installed here, and as a wheel in a fresh environment."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def call(*words: str | Path, cwd: Path, timeout: int = 600) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(w) for w in words],
        cwd=cwd,
        env=environment | {"OMP_WAIT_POLICY": "passive", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def check_commands(folder: Path, cwd: Path) -> None:
    for command in ("astro-train", "astro-data", "astro-model"):
        assert command in call(folder / command, "--help", cwd=cwd)
    assert "mock_stars" in call(folder / "astro-train", "--help", cwd=cwd)
    composed = call(folder / "astro-train", "+experiment=specclip", "scale=tiny", "--cfg", "job", cwd=cwd)
    assert "scale: tiny" in composed
    told = call(
        folder / "astro-model", "describe", "+experiment=specclip", "scale=paper", "variant=clip", cwd=cwd
    )
    assert "99,710,814" in told


def test_commands_run_from_an_empty_folder_as_installed(tmp_path):
    if not (BIN / "astro-train").exists():
        pytest.skip("astro-train is not installed beside this Python: run make install-test")
    check_commands(BIN, tmp_path)


def test_constraints_pin_every_dependency_once_without_local_versions():
    pins = [
        line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"
    ]
    assert len(pins) == len(set(pins))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["test"], *extras["dev"]]:
        name = requirement.replace(">", "=").replace("<", "=").split("=")[0].split("[")[0].lower()
        assert name in pins, f"{name} is not pinned"
    text = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0\n" in text
    assert "+cpu" not in text
    assert "file:" not in text


@pytest.mark.slow
def test_wheel_in_a_fresh_environment_trains_the_tiny_recipe(tmp_path):
    call(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = (
        call("git", "ls-files", "astroclip_train", "conf", cwd=ROOT).split()
        if (ROOT / ".git").exists()
        else []
    )
    for name in tracked:
        assert (
            name.replace("conf/", "astroclip_train/_conf/", 1) in names
            if name[:5] == "conf/"
            else name in names
        )
    assert "astroclip_train/_conf/config.yaml" in names
    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=True)
    folder = fresh / ("Scripts" if os.name == "nt" else "bin")
    call(folder / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    check_commands(folder, empty)
    where = call(
        folder / "python", "-c", "import astroclip_train; print(astroclip_train.__file__)", cwd=empty
    )
    assert str(fresh) in where
    call(folder / "astro-train", "+experiment=specclip", "scale=tiny", cwd=empty, timeout=900)
    (report,) = (empty / "runs" / "specclip").glob("*/report.html")
    assert report.stat().st_size > 10_000


def test_pinned_versions_install_on_the_oldest_python():
    """Debian 12 has Python 3.11.2: a pin that wants 3.11.5 makes `make install` fail there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    checked = 0
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        try:
            found = metadata(name)
        except PackageNotFoundError:
            continue  # pinned for an extra that is not installed here
        wanted = found["Requires-Python"]
        if found["Version"].split("+")[0] == version and wanted:
            assert oldest in SpecifierSet(wanted), f"{line} wants Python {wanted}"
            checked += 1
    assert checked > 50
