"""Where the packaged configuration lies and what it offers; reads file names only, so that `--help` is quick."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError

__all__ = ["conf_folder", "describe_file", "groups"]

HIDDEN = ("hydra", "recipe", "stage_trainer")  # chosen by experiments, not by people


def conf_folder() -> Path:
    """The `conf/` of the installed package if present, else that of the source checkout.

    Raises:
        ConfigError: neither exists, so the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"No conf/ folder was found beside {package}: reinstall astro-train.")


def groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The choices of every group, by name, over several conf folders."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            parts = file.relative_to(folder).with_suffix("").parts
            if len(parts) >= 2:
                group, choice = (
                    (f"{parts[0]}/{parts[1]}", parts[2:]) if parts[0] == "hydra" else (parts[0], parts[1:])
                )
                if choice:
                    found.setdefault(group, set()).add("/".join(choice))
    return {group: sorted(found[group]) for group in sorted(found)}


def describe_file(folder: Path, group: str, choice: str) -> str:
    """The first comment line of a group's file, which says what it is."""
    for line in (folder / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.lstrip("# ").strip()
        if line.startswith("#") and not text.startswith("@package"):
            return text
    return ""
