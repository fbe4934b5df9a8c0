"""The run directory as ranks other than 0 see it: they read, and write nothing."""

from pathlib import Path
from typing import Any

__all__ = ["Follower"]


class _Nothing:
    """Takes rows and checks without effect."""

    def write(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """Rank 0 writes it."""

    def cut(self, stage: str, step: int) -> int:
        """Rank 0 cuts."""
        return 0

    def check(self) -> None:
        """Rank 0 holds the lease."""


class Follower:
    """Stands for a `RunDir`.

    Arguments:
        run_dir: this rank's, never opened.
        path: rank 0's folder.
    """

    def __init__(self, run_dir: Any, path: Path) -> None:
        self._run_dir = run_dir
        run_dir.path = path
        self.metrics, self.lease = _Nothing(), _Nothing()

    def mark(self, status: str) -> None:
        """Rank 0 writes it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run_dir, name)
