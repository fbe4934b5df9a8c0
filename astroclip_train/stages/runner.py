"""Takes a run through its stages, evaluates it once, and writes metrics and report."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..config.fingerprint import fingerprint
from ..distributed import is_main, on_main
from ..distributed.heartbeat import beat
from ..evaluation.assemble import assemble
from ..evaluation.report import render_report
from ..files import read_json, write_json
from ..training.loggers import open_loggers
from ..training.progress import answer, say
from .align import AlignStage
from .base import Stage
from .budget import budget
from .context import RunContext
from .heads import HeadsStage
from .plan import plan_row, print_plan
from .pretrain import PretrainStage

__all__ = ["STAGES", "preflight", "run", "stages_of"]

PREFLIGHT_SAMPLES = 512
STAGES: dict[str, type[Stage]] = {"pretrain": PretrainStage, "align": AlignStage, "heads": HeadsStage}


def stages_of(context: RunContext) -> list[Stage]:
    """The stages of a run in order, those of `run.stages` where it is set."""
    wanted = context.config["run"]["stages"] or list(context.config["stages"])
    nodes = context.config["stages"]
    return [STAGES[nodes[name]["_stage_"]](context, name) for name in nodes if name in wanted]


def run(config: DictConfig, run_dir: Any) -> int:
    """Trains what is not trained, evaluates, reports; the same command again continues or says it is done.

    Returns:
        0.
    """
    start = time.monotonic()
    context = RunContext(config, run_dir)
    wanted = (context.config.get("logger") or {}) if is_main() else {}
    with open_loggers(wanted, context.path, context.path.name) as loggers:
        context.loggers = loggers
        chosen = stages_of(context)
        for stage in chosen:
            stage.run()
            if is_main():
                stage.source.write_bad_objects(stage.folder / "bad_objects.csv")
        report, complete = on_main(lambda: _conclude(context))
    if is_main():
        run_dir.mark("finished" if complete else "partial")
    say(f"done in {time.monotonic() - start:.0f} s")
    answer(report)
    return 0


def _conclude(context: RunContext) -> tuple[str, bool]:
    """Evaluates where that is wanted; what the command prints, and whether the run is complete."""
    if not context.config["run"]["evaluate"]:
        return str(context.path), False
    stale = _stale(context)
    if stale:
        say(
            f"{', '.join(stale)}: made with other weights than those of now, so nothing is evaluated and "
            "earlier metrics and report stand: the same command without run.stages and run.extend trains anew what it "
            "must, and evaluates."
        )
        return str(context.path), False
    report = evaluate(context)
    return str(report or context.path), all(_record(context, name) for name in context.config["stages"])


def _stale(context: RunContext) -> list[str]:
    """Finished stages whose inputs are no longer those that they were made with, as after `run.extend`."""
    return [
        name
        for name, node in context.config["stages"].items()
        if (record := _record(context, name)) and not STAGES[node["_stage_"]](context, name).is_of(record)
    ]


def preflight(config: DictConfig, run_dir: Any) -> int:
    """Opens the data, takes two real steps of every fit in a temporary folder, prints the plan, and ends.

    Returns:
        0.
    """
    context = RunContext(config, run_dir, limit=PREFLIGHT_SAMPLES)
    rows = []
    for stage in stages_of(context):
        stage.run()
        if not is_main():
            continue
        record = _record(context, stage.name) or {}
        fits = record.get("tasks") or {stage.name: record["timing"]}
        samples = {s: len(stage.source.samples(s)) for s in ("train", "validation", "test")}
        rows += [plan_row(stage, name, timing, samples) for name, timing in fits.items()]
    if is_main():
        print_plan(rows)
        for line in budget(rows, [Path(context.config["run"]["root"]), context.cache_root]):
            say(line)
    return 0


def evaluate(context: RunContext) -> Path | None:
    """The final evaluation of every finished stage, once for each state of them: the only source of test metrics."""
    names = list(context.config["stages"])
    finished = {n: _record(context, n) for n in names}
    mark = fingerprint([context.config["evaluation"], {n: _state(r) for n, r in finished.items() if r}])
    state = context.path / "evaluation.json"
    report = context.path / "report.html"
    if (
        state.exists()
        and read_json(state)["fingerprint"] == mark
        and (context.path / "metrics.json").exists()
    ):
        return report if report.exists() else None
    start = time.perf_counter()
    say("evaluation on the test split")
    kinds = {n: context.config["stages"][n]["_stage_"] for n in names}
    evaluated = [STAGES[kinds[n]](context, n) for n in names if finished[n]]
    for stage in evaluated:
        beat(f"evaluation of {stage.name}")
        stage.evaluate()
    beat("metrics and report")
    timing = {n: r["timing"] for n, r in finished.items() if r}
    timing |= {f"{n}/{t}": v for n, r in finished.items() if r for t, v in r.get("tasks", {}).items()}
    timing["evaluation"] = {"seconds": time.perf_counter() - start}
    write_json(context.path / "timing.json", timing)
    surveys = {info.survey for stage in evaluated for info in stage.source.infos.values()}
    write_json(context.path / "data.json", {"surveys": sorted(surveys)})
    assemble(context.path, replicates=int(context.config["evaluation"]["bootstrap"]))
    if context.config["evaluation"].get("report", True):
        render_report(context.path)
    write_json(state, {"fingerprint": mark})
    return report if report.exists() else None


def _state(record: dict[str, Any]) -> Any:
    """What tells the weights of a stage: an extended one keeps its fingerprint."""
    mark = record["fingerprint"]
    return [mark, record.get("step"), record.get("best_step")] if record.get("extended") else mark


def _record(context: RunContext, name: str) -> dict[str, Any] | None:
    path = context.stage_folder(name) / "done.json"
    return read_json(path) if path.exists() else None
