"""Which step was best on validation, and when to stop: state that lives in the checkpoint."""

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Selection"]


@dataclass
class Selection:
    """Ranks validation results; test metrics never reach it.

    Attributes:
        monitor: the validation metric.
        mode: "min" or "max".
        keep_best: records kept.
        patience: validations without improvement before stopping; None never stops.
        min_delta: smallest change that counts as improvement for stopping.
        records: (step, value) pairs, best first.
        reference: the last value that counted as improvement.
        bad: validations since the last improvement.
    """

    monitor: str = "val_loss"
    mode: str = "min"
    keep_best: int = 1
    patience: int | None = None
    min_delta: float = 0.0
    records: list[tuple[int, float]] = field(default_factory=list)
    reference: float | None = None
    bad: int = 0
    stopped: bool = False

    def _sign(self) -> float:
        return 1.0 if self.mode == "min" else -1.0

    def take(self, step: int, value: float) -> bool:
        """Books one validation and says whether the weights belong to the best k. NaN never does."""
        sign = self._sign()
        reference = math.inf * sign if self.reference is None else self.reference
        improved = not math.isnan(value) and sign * value < sign * reference - self.min_delta
        self.bad, self.reference = (0, value) if improved else (self.bad + 1, self.reference)
        self.stopped = self.patience is not None and self.bad >= self.patience
        if math.isnan(value):
            return False
        self.records = [r for r in self.records if r[0] != step] + [(step, value)]
        self.records.sort(key=lambda r: (sign * r[1], r[0]))
        self.records = self.records[: self.keep_best]
        return any(s == step for s, _ in self.records)

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, value) of the best validation, or None before the first."""
        return self.records[0] if self.records else None

    def state_dict(self) -> dict[str, Any]:
        """Records, patience used, whether it stopped."""
        return {
            "records": [list(r) for r in self.records],
            "reference": self.reference,
            "bad": self.bad,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.records = [(int(s), float(v)) for s, v in state["records"]]
        self.reference, self.bad, self.stopped = state.get("reference"), state["bad"], state["stopped"]
