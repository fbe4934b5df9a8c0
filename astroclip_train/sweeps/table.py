"""A sweep as plain data and as a table for the terminal."""

import math
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..training.claims import live_holder
from .space import names
from .study import load_study

__all__ = ["print_sweep", "read_sweep"]

SHOWN = 30  # rows of a table in the terminal


def read_sweep(folder: Path) -> dict[str, Any]:
    """Everything about a sweep: definition, trials from best to worst, the best one's command.

    Raises:
        RunError: the folder holds no sweep.
    """
    study, record = load_study(folder)
    definition = record["definition"]
    sign = 1 if definition["direction"] == "minimize" else -1
    trials = [_trial(t, folder) for t in study.get_trials(deepcopy=False)]
    order = {"complete": 0, "pruned": 1, "running": 2, "owed": 3, "failed": 4}
    trials.sort(key=lambda t: (order[t["state"]], _key(t["value"], sign), t["number"]))
    complete = [t for t in trials if t["state"] == "complete"]
    for rank, trial in enumerate(complete, 1):
        trial["rank"] = rank
    best = complete[0] if complete else None
    told = {
        "folder": str(folder),
        **definition,
        "n_trials": record["n_trials"],
        "counts": {s: sum(t["state"] == s for t in trials) for s in order},
        "best": None,
        "trials": trials,
    }
    if best:
        told["best"] = {
            **{k: best[k] for k in ("number", "value", "params", "run")},
            "command": command(record, best["params"]),
            "evaluated": (folder.parent / Path(best["run"]).name / "metrics.json").exists(),
        }
    return told


def _key(value: float | None, sign: int) -> float:
    return math.inf if value is None else sign * value


def _trial(trial: Any, folder: Path) -> dict[str, Any]:
    state = trial.state.name.lower()
    if state == "running":
        held = live_holder(folder / "trials" / f"{trial.number:04d}" / "lease.json")
        state = "running" if held else "owed"
    values = trial.intermediate_values
    value = trial.value if state == "complete" else values[max(values)] if values else None
    return {
        "number": trial.number,
        "rank": None,
        "state": {"fail": "failed", "waiting": "owed"}.get(state, state),
        "value": value if value is None or math.isfinite(value) else None,
        "step": max(values, default=None),
        "params": dict(trial.params),
        "curve": {str(s): v if math.isfinite(v) else None for s, v in sorted(values.items())},
        "reason": trial.user_attrs.get("reason"),
        "seconds": trial.user_attrs.get("seconds"),
        "host": trial.user_attrs.get("host"),
        "run": trial.user_attrs.get("run"),
        "log": trial.user_attrs.get("log"),
    }


def command(record: dict[str, Any], params: dict[str, Any]) -> str:
    """What to paste into a shell to train and evaluate a point of a sweep."""
    options = [f"--config-dir={d}" for d in record["config_dirs"]]
    options += [f"--allow-target={p}" for p in record["allowed"]]
    texts = [f"{record['keys'][k]}={_text(record['texts'].get(k, []), v)}" for k, v in params.items()]
    return shlex.join(["astro-train", *options, *record["base"], *texts])


def _text(pairs: list[Any], value: Any) -> str:
    for plain, text in pairs:
        if type(plain) is type(value) and plain == value:
            return str(text)
    return repr(value)


def print_sweep(told: dict[str, Any]) -> None:
    """The table, the reasons of failures, and the best command."""
    counts = ", ".join(f"{n} {state}" for state, n in told["counts"].items() if n)
    title = f"{told['direction']} {told['metric']}: {counts} of {told['n_trials']} trials"
    table = Table(title=title, title_justify="left")
    short = names(list(told["space"]))
    for column in ("rank", "trial", "value", *short.values()):
        table.add_column(column, justify="right", overflow="fold")
    for column in ("state", "run"):
        table.add_column(column, overflow="fold")
    for trial in told["trials"][:SHOWN]:
        state = trial["state"] + (f" at {trial['step']:,}" if trial["state"] == "pruned" else "")
        table.add_row(
            str(trial["rank"] or ""), str(trial["number"]), shown(trial["value"], 5),
            *(shown(trial["params"].get(k)) for k in told["space"]), state, Path(trial["run"] or "").name,
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if len(told["trials"]) > SHOWN:
        print(f"and {len(told['trials']) - SHOWN} more: --json has all")
    for trial in told["trials"]:
        if trial["reason"]:
            print(f"trial {trial['number']} failed: {trial['reason']}")
    if told["best"]:
        print(
            f"best command, {'evaluated' if told['best']['evaluated'] else 'not yet evaluated'} on test objects:"
        )
        print(f"  {told['best']['command']}")


def shown(value: Any, digits: int = 4) -> str:
    """A value for a narrow column."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
