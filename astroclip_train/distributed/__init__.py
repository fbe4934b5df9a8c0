"""Several processes as one: geometry, process group, collectives with gradients, the launcher of local ranks.

Nothing here imports torch before it is needed: `geometry` and `launch` work without it.
"""

from typing import Any

__all__ = [
    "agree",
    "alone",
    "any_rank",
    "barrier",
    "broadcast",
    "gather_rows",
    "global_mean",
    "is_main",
    "on_main",
    "rank",
    "sum_over_ranks",
    "world_size",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import collectives

        return getattr(collectives, name)
    raise AttributeError(f"module {__name__} has no {name}")
