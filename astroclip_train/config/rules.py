"""What fields of a configuration must say about each other: stage order, inputs, labels, schedules."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .messages import closest, listing

__all__ = ["check", "dataset_nodes", "for_input", "references"]

KINDS = ("raw", "single", "aligned")


def check(plain: Mapping[str, Any]) -> None:
    """Checks every rule on a plain configuration whose structure is right.

    Raises:
        ConfigError: the first rule that is broken.
    """
    _run(plain)
    _labels(plain["labels"])
    _datasets(plain)
    for name, stage in plain["stages"].items():
        _references(name, stage, plain["stages"])
        _schedule(f"stages.{name}", stage)
        _temperature(stage, f"stages.{name}")
        if "tasks" in stage:
            _tasks(name, stage, plain["labels"]["names"])
        if stage.get("heads") and stage.get("encoders"):
            _same_modalities(f"stages.{name}", stage)


def references(stage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key within the stage, origin) of every earlier result that a stage starts from."""
    nodes = {f"encoders.{m}": node for m, node in (stage.get("encoders") or {}).items()}
    if stage.get("aligned"):
        nodes["aligned"] = stage["aligned"]
    for key, node in nodes.items():
        yield (key, node) if isinstance(node, str) else (f"{key}.from", node["from"])


def _run(plain: Mapping[str, Any]) -> None:
    run, stages = plain["run"], plain["stages"]
    for name in run["stages"] or ():
        if name not in stages:
            near = closest(name, stages)
            advice = f"did you mean {near}?" if near else f"they are {listing(stages)}."
            raise ConfigError(f"run.stages names {name}, which is not a stage of this experiment: {advice}")
    if run["stages"] == []:
        raise ConfigError(f"run.stages is empty: name some of {listing(stages)}, or null for all.")
    if run["fresh"] and run["extend"]:
        raise ConfigError(
            "run.fresh=true and run.extend exclude each other: a new generation has nothing to lengthen."
        )


def _labels(labels: Mapping[str, Any]) -> None:
    names = labels["names"]
    if not names:
        raise ConfigError("labels.names is empty: name at least one label of the data, such as teff.")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise ConfigError(f"labels.names has {twice} twice: name each label once.")


def _datasets(plain: Mapping[str, Any]) -> None:
    for name, stage in plain["stages"].items():
        if stage.get("dataset") == []:
            raise ConfigError(
                f"stages.{name}.dataset is an empty list: name a dataset, or null for the run's."
            )
    for key, node in dataset_nodes(plain):
        paths = node.get("path")
        for path in paths if isinstance(paths, list) else [paths] if isinstance(paths, str) else []:
            if not Path(path).exists():
                raise ConfigError(f"{key}.path={path} does not exist{_neighbour(Path(path))}")


def dataset_nodes(plain: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(key, node) of every dataset that a stage reads; the run's own only where a stage inherits it."""
    inherited = any(stage.get("dataset") is None for stage in plain["stages"].values())
    nodes = [("dataset", plain["dataset"])] if inherited else []
    for name, stage in plain["stages"].items():
        own, key = stage.get("dataset"), f"stages.{name}.dataset"
        if isinstance(own, list):
            nodes += [(f"{key}.{i}.dataset", entry["dataset"]) for i, entry in enumerate(own)]
        elif own:
            nodes.append((key, own))
    return nodes


def _neighbour(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {folder}."
    near = closest(path.name, [p.name for p in folder.iterdir()])
    if near:
        return f": did you mean {folder / near}?"
    return ": correct the path, or make the file with astro-data convert."


def _references(name: str, stage: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
    order = list(stages)
    for key, origin in references(stage):
        where = f"stages.{name}.{key}"
        if origin in stages:
            if order.index(origin) >= order.index(name):
                which = "the stage itself" if origin == name else f"stage {origin}, which comes later"
                earlier = listing(order[: order.index(name)]) or "none"
                raise ConfigError(
                    f"{where}={origin} is {which}: name an earlier one ({earlier}), a file or a folder."
                )
        elif not Path(origin).exists():
            near = closest(origin, order)
            advice = f"did you mean {near}?" if near else f"the stages are {listing(order)}."
            raise ConfigError(
                f"{where}={origin} is neither a stage nor an existing checkpoint or folder: {advice}"
            )


def _schedule(where: str, stage: Mapping[str, Any]) -> None:
    nodes = [(where, stage, stage["trainer"])]
    for task, node in (stage.get("tasks") or {}).items():
        for text in [None, *(node.get("per_input") or {})]:
            own = node if text is None else for_input(node, text)
            key = f"{where}.tasks.{task}" + ("" if text is None else f".per_input.{text}")
            merged = {**stage["trainer"], **(own.get("trainer") or {})}
            nodes.append((key, {**stage, **{k: v for k, v in own.items() if v}}, merged))
    for key, node, trainer in nodes:
        steps, batch, parts = trainer["max_steps"], trainer["batch_size"], trainer["accumulate"]
        if batch % parts:
            raise ConfigError(
                f"{key}.trainer.batch_size={batch} is not divisible by accumulate={parts}: "
                f"the batch is global, so take a multiple of {parts}."
            )
        warmup = node["scheduler"].get("warmup_steps", 0)
        if warmup > steps:
            raise ConfigError(
                f"{key}.scheduler.warmup_steps={warmup} is longer than trainer.max_steps={steps}: "
                "shorten the warm-up or train longer."
            )


def _temperature(node: Any, where: str) -> None:
    """A temperature is 1 / logit scale wherever it stands; larger than 1 is a scale given by mistake."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if name == "temperature" and isinstance(value, int | float) and not 0 < value <= 1:
            scale = f": a scale of {value:g} is temperature={1 / value:.4g}." if value > 1 else "."
            raise ConfigError(
                f"{where}.temperature={value:g} must lie in (0, 1], it is 1 / logit scale{scale}"
            )
        _temperature(value, f"{where}.{name}")


def _same_modalities(where: str, stage: Mapping[str, Any]) -> None:
    for modality in stage["heads"]:
        if modality not in stage["encoders"]:
            raise ConfigError(
                f"{where}.heads.{modality} has no encoder: add {where}.encoders.{modality}, or remove that head."
            )
    for modality in stage["encoders"]:
        if modality not in stage["heads"]:
            raise ConfigError(f"{where}.encoders.{modality} has no head: add {where}.heads.{modality}.")


def _tasks(name: str, stage: Mapping[str, Any], labels: Sequence[str]) -> None:
    where, tasks = f"stages.{name}", stage["tasks"]
    seen: list[str] = []
    for task, node in tasks.items():
        key = f"{where}.tasks.{task}"
        if not node["inputs"]:
            raise ConfigError(f"{key}.inputs is empty: name at least one, e.g. lrs.aligned.")
        for text in node["inputs"]:
            _input(text, f"{key}.inputs", where, stage)
        origin = node.get("init")
        if origin is not None and origin not in seen:
            near = closest(origin, seen)
            advice = f"did you mean {near}?" if near else f"earlier tasks are {listing(seen) or 'none'}."
            raise ConfigError(f"{key}.init={origin} is not an earlier task: {advice}")
        if origin is not None:
            missing = [i for i in node["inputs"] if i not in tasks[origin]["inputs"]]
            if missing:
                raise ConfigError(
                    f"{key} starts from task {origin}, which has no input {missing[0]}: "
                    f"add it to {where}.tasks.{origin}.inputs."
                )
        for text in node.get("per_input") or {}:
            if text not in node["inputs"]:
                near = closest(text, node["inputs"])
                advice = f"did you mean {near}?" if near else f"its inputs are {listing(node['inputs'])}."
                raise ConfigError(f"{key}.per_input has {text}, which is not an input of the task: {advice}")
        if node.get("head") is None and origin is None:
            raise ConfigError(f"{key} has neither head nor init: choose one with head@{key}.head=mlp.")
        if node.get("finetune") and any(not t.endswith(".single") or "+" in t for t in node["inputs"]):
            raise ConfigError(
                f"{key}.finetune=true needs inputs <modality>.single, not {listing(node['inputs'])}."
            )
        aligned = next((t for t in node["inputs"] if ".aligned" in t), None)
        if node.get("augment") and aligned:
            raise ConfigError(
                f"{key}.augment needs inputs .raw or .single, not {aligned}: aligned embeddings are made once."
            )
        if (node.get("augment") or {}).get("shift") and "rv" in labels:
            raise ConfigError(
                f"{key}.augment.shift moves spectra by pixels but leaves labels as they are, and labels.names has rv: "
                "take shift=0, or leave rv out."
            )
        if node.get("lora") and not node.get("finetune"):
            raise ConfigError(
                f"{key}.lora needs {key}.finetune=true: it says how the encoder is trained along."
            )
        seen.append(task)
    for text in stage.get("embeddings") or ():
        _input(text, f"{where}.embeddings", where, stage)


def _input(text: str, key: str, where: str, stage: Mapping[str, Any]) -> None:
    for part in text.split("+"):
        modality, _, kind = part.partition(".")
        if kind not in KINDS or not modality:
            near = closest(kind, KINDS)
            advice = (
                f"did you mean {modality}.{near}?" if near and modality else f"kinds are {', '.join(KINDS)}."
            )
            raise ConfigError(f"{key} has {text}, which is not <modality>.<kind> joined by +: {advice}")
        if kind == "single" and modality not in (stage.get("encoders") or {}):
            known = listing(stage.get("encoders") or {}) or "none"
            raise ConfigError(
                f"{key} has {part}, but {where}.encoders has no {modality} (it has {known}): add it there."
            )
        if kind == "aligned" and not stage.get("aligned"):
            raise ConfigError(
                f"{key} has {part}, but {where}.aligned is not set: add {where}.aligned.from=STAGE."
            )


def for_input(node: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A task's configuration on one input, with what `per_input` changes there."""
    changed = (node.get("per_input") or {}).get(name) or {}
    return {
        **node,
        **{k: {**(node.get(k) or {}), **v} if isinstance(v, dict) else v for k, v in changed.items()},
    }
