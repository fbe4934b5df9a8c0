"""The plan that a preflight prints: what each fit will take, from two measured steps."""

from typing import Any

from rich.console import Console
from rich.table import Table

from ..config.rules import for_input

__all__ = ["plan_row", "print_plan"]


def plan_row(stage: Any, name: str, timing: dict[str, float], samples: dict[str, int]) -> dict[str, Any]:
    """One fit: its steps as configured and its time extrapolated from the second of two steps."""
    node: dict[str, Any] = {}
    if name != stage.name:
        task, _, source = name.partition("__")
        node = for_input(stage.config["tasks"][task], source).get("trainer") or {}
    trainer = {**stage.config.get("trainer", {}), **node}
    steps = int(trainer["max_steps"]) if timing.get("steps") else 0
    batch, tried = int(trainer["batch_size"]), stage.settings(node).batch_size
    per_step = timing.get("step_seconds", 0.0) * batch / tried
    return {
        "fit": stage.name if name == stage.name else f"{stage.name}/{name.replace('__', ' on ')}",
        "samples": samples,
        "steps": steps,
        "batch": batch,
        "step": per_step,
        "seconds": per_step * steps if steps else timing.get("seconds", 0.0),
        "memory": timing.get("peak_memory_gb"),
    }


def print_plan(rows: list[dict[str, Any]]) -> None:
    """Prints the table of fits with their sum."""
    table = Table(title="plan (two steps measured of each fit; validation and evaluation not included)")
    for title in ("fit", "train / val / test", "steps", "batch", "s/step", "minutes", "memory GB"):
        table.add_column(title, justify="left" if title == "fit" else "right")
    for row in rows:
        split = " / ".join(f"{row['samples'][s]:,}" for s in ("train", "validation", "test"))
        memory = f"{row['memory']:.1f}" if row["memory"] else "-"
        minutes = f"{row['seconds'] / 60:.1f}"
        table.add_row(
            row["fit"], split, f"{row['steps']:,}", f"{row['batch']:,}", f"{row['step']:.3f}", minutes, memory
        )
    total = sum(row["seconds"] for row in rows) / 60
    table.add_section()
    table.add_row("sum", "", "", "", "", f"{total:.1f}", "")
    Console(width=120).print(table)
