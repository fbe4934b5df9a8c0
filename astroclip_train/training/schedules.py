"""Learning-rate schedules as pure functions of the optimiser step, so that a resumed run has no state to lose."""

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "constant", "one_cycle", "schedule_from", "warmup_cosine"]


def constant(step: int, *, max_steps: int, warmup_steps: int = 0, **_: float) -> float:
    """A constant factor after a linear warm-up: f(s) = min(1, (s + 1) / w)."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def warmup_cosine(step: int, *, max_steps: int, warmup_steps: int = 0, floor: float = 0.01) -> float:
    r"""Linear warm-up, then a half cosine down to `floor`, constant afterwards.

    .. math:: f(s) = f_0 + (1 - f_0) \, \tfrac12 [1 + \cos(\pi (s - w) / (S - w))]

    `floor` is a fraction of the peak rate; the published code computes it by integer division, which makes it 0.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(step: int, *, max_steps: int, warmup_steps: int = 0, floor: float = 0.001) -> float:
    """Cosine up from 1/25 of the peak, cosine down to `floor` (Smith and Topin 2018, arXiv:1708.07120)."""
    if step < warmup_steps:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * (step + 1) / warmup_steps))
    return warmup_cosine(step, max_steps=max_steps, warmup_steps=warmup_steps, floor=floor)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "warmup_cosine": warmup_cosine,
    "one_cycle": one_cycle,
}


def schedule_from(
    name: str, *, max_steps: int, warmup_steps: int = 0, floor: float = 0.01
) -> Callable[[int], float]:
    """The factor on the peak learning rate as a function of the step alone."""
    rule = SCHEDULES[name]
    return lambda step: rule(step, max_steps=max_steps, warmup_steps=warmup_steps, floor=floor)
