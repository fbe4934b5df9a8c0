"""Which keys decide the mathematics of a run (identity) and which only say how and where it runs (operational)."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import ConfigError

__all__ = [
    "CONTENT",
    "IDENTITY",
    "OPERATIONAL",
    "TABLE",
    "classify",
    "differences",
    "flat",
    "identity",
    "operational",
]
__all__ += ["command_identity", "stage_identity"]

IDENTITY = "identity"
OPERATIONAL = "operational"
CONTENT = "content"  # a path: it names the run, but what is compared is the content found there

# (pattern, class, reason): the first row that matches a key decides; * is one level, a final .** any number.
TABLE: tuple[tuple[str, str, str], ...] = (
    ("experiment", OPERATIONAL, "the folder above the run"),
    ("choices.**", OPERATIONAL, "names of files whose values count by themselves"),
    ("scale", OPERATIONAL, "its values count by themselves"),
    ("variant", OPERATIONAL, "its values count by themselves"),
    ("conventions", OPERATIONAL, "its values count by themselves"),
    ("adapt", OPERATIONAL, "its values count by themselves"),
    ("vars.**", OPERATIONAL, "counts where it is used"),
    ("model", CONTENT, "an exported folder"),
    ("run.seed", IDENTITY, "all random draws"),
    ("run.name", OPERATIONAL, "where"),
    ("run.root", OPERATIONAL, "where"),
    ("run.stages", OPERATIONAL, "how much of it now"),
    ("run.fresh", OPERATIONAL, "which generation"),
    ("run.extend", OPERATIONAL, "booked in the run directory"),
    ("run.preflight", OPERATIONAL, "a trial"),
    ("run.requeue", OPERATIONAL, "when"),
    ("run.evaluate", OPERATIONAL, "how much of it now"),
    ("sweep.**", OPERATIONAL, "which runs are made, not what they are"),
    ("labels.names", IDENTITY, "what is predicted"),
    ("labels.n", IDENTITY, "how many labelled objects"),
    ("data.block", IDENTITY, "the order of the objects"),
    ("data.num_workers", OPERATIONAL, "batches are the same for any number"),
    ("data.max_bad_fraction", OPERATIONAL, "stops a run, changes none"),
    ("data.cache_root", OPERATIONAL, "where"),
    ("data.stage_to", OPERATIONAL, "where; copies have the same content"),
    ("dataset.path.**", CONTENT, "stores"),
    ("dataset.**", IDENTITY, "data content"),
    ("trainer.**", OPERATIONAL, "counts where stages use it"),
    ("logger.**", OPERATIONAL, "what is written besides"),
    ("callbacks", OPERATIONAL, "none of them"),
    ("callbacks.timer.**", OPERATIONAL, "a time limit"),
    ("callbacks.**", IDENTITY, "may change the training"),
    ("evaluation.retrieval_gallery", IDENTITY, "what is measured"),
    ("evaluation.posterior_samples", IDENTITY, "what is measured"),
    ("evaluation.bootstrap", IDENTITY, "what is measured"),
    ("evaluation.report", OPERATIONAL, "whether a page is written"),
    ("stages", OPERATIONAL, "none"),
    ("stages.*.dataset.path.**", CONTENT, "stores"),
    ("stages.*.dataset.*.dataset.path.**", CONTENT, "a store"),
    ("stages.*.dataset.**", IDENTITY, "data content"),
    ("stages.*.encoders.*.from", CONTENT, "a stage, checkpoint or export: its fingerprint counts"),
    ("stages.*.aligned.from", CONTENT, "as above"),
    ("stages.*.cache", OPERATIONAL, "features are rounded alike with and without"),
    ("stages.*.probe.**", OPERATIONAL, "watches, changes nothing"),
    ("stages.*.optimizer.fused", OPERATIONAL, "which kernels"),
    ("stages.*.tasks.*.optimizer.fused", OPERATIONAL, "which kernels"),
    ("stages.*.trainer.max_steps", IDENTITY, "the schedule"),
    ("stages.*.trainer.batch_size", IDENTITY, "the global batch"),
    ("stages.*.trainer.accumulate", IDENTITY, "micro-batches limit the negatives"),
    ("stages.*.trainer.val_every_steps", IDENTITY, "which checkpoints can be best"),
    ("stages.*.trainer.val_batches", IDENTITY, "which checkpoint is best"),
    ("stages.*.trainer.validate_first", IDENTITY, "which checkpoints can be best"),
    ("stages.*.trainer.monitor", IDENTITY, "which checkpoint is best"),
    ("stages.*.trainer.mode", IDENTITY, "which checkpoint is best"),
    ("stages.*.trainer.early_stopping_patience", IDENTITY, "when it ends"),
    ("stages.*.trainer.early_stopping_min_delta", IDENTITY, "when it ends"),
    ("stages.*.trainer.gradient_clip", IDENTITY, "the update"),
    ("stages.*.trainer.ema_decay", IDENTITY, "the weights kept"),
    ("stages.*.trainer.precision", IDENTITY, "the arithmetic"),
    ("stages.*.trainer.checkpoint_every_steps", OPERATIONAL, "what a crash costs"),
    ("stages.*.trainer.log_every_steps", OPERATIONAL, "rows of metrics.csv"),
    ("stages.*.trainer.keep_best", OPERATIONAL, "how many are kept; the best is always"),
    ("stages.*.trainer.compile", OPERATIONAL, "speed"),
    ("stages.*.trainer.deterministic", OPERATIONAL, "which kernels"),
    ("stages.*.trainer.accelerator", OPERATIONAL, "where"),
    ("stages.*.trainer.devices", OPERATIONAL, "where; the batch is global"),
    ("stages.*.trainer.num_nodes", OPERATIONAL, "where"),
    ("stages.*.trainer.strategy", OPERATIONAL, "where"),
    ("stages.*.trainer.**", "", "a new trainer key must be given a row of its own"),
    ("stages.*.tasks.*.trainer.checkpoint_every_steps", OPERATIONAL, "what a crash costs"),
    ("stages.*.tasks.*.trainer.log_every_steps", OPERATIONAL, "rows of metrics.csv"),
    ("stages.*.tasks.*.trainer.keep_best", OPERATIONAL, "how many are kept; the best is always"),
    ("stages.*.objective.chunk_size", OPERATIONAL, "memory; another order of sums, other dropout masks"),
    ("stages.*.objective.decoders.chunk_size", OPERATIONAL, "memory; another order of sums and masks"),
    ("stages.**", IDENTITY, "model, objective, optimiser, schedule"),
)  # fmt: skip

LABEL_FREE = ("pretrain", "align")  # stage kinds whose weights do not depend on the labels


@lru_cache(maxsize=4096)
def classify(key: str) -> str:
    """The class of a dotted key.

    Raises:
        ConfigError: the table has no row for it.
    """
    parts = tuple(key.split("."))
    for pattern, kind, _ in TABLE:
        if _matches(tuple(pattern.split(".")), parts):
            if kind:
                return kind
            break
    raise ConfigError(f"{key} is neither identity nor operational: add a row for it to config/keys.py.")


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if pattern and pattern[-1] == "**":
        head = pattern[:-1]
        return len(parts) >= len(head) and _matches(head, parts[: len(head)])
    return len(pattern) == len(parts) and all(p in ("*", q) for p, q in zip(pattern, parts, strict=True))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by dotted key; empty mappings and lists are leaves; list items count by position."""
    return dict(_leaves(_container(node), prefix))


def _container(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig | ListConfig) else node


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    items: Iterator[tuple[Any, Any]]
    if isinstance(node, Mapping) and node:
        items = iter(node.items())
    elif isinstance(node, list | tuple) and any(isinstance(v, Mapping) for v in node):
        items = iter(enumerate(node))
    else:
        yield prefix, node
        return
    for name, value in items:
        yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))


def _chosen(cfg: Any, kinds: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in flat(cfg).items() if classify(key) in kinds}


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in leaves.items():
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return result


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The identity keys of a resolved configuration, nested; paths are left out, since their content counts."""
    return _nested(_chosen(cfg, (IDENTITY,)))


def operational(cfg: DictConfig) -> dict[str, Any]:
    """The operational keys, nested."""
    return _nested(_chosen(cfg, (OPERATIONAL,)))


def command_identity(cfg: DictConfig) -> dict[str, Any]:
    """What gives a run its name: identity keys and paths, flat."""
    return _chosen(cfg, (IDENTITY, CONTENT))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Flat keys whose values differ, as (there, here); a missing key is None."""
    keys = sorted({*there, *here})
    return {k: (there.get(k), here.get(k)) for k in keys if there.get(k) != here.get(k)}


def stage_identity(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """The identity keys that decide one stage: its own, its dataset's, the seed, and the labels where it uses any."""
    chosen = _chosen(cfg, (IDENTITY,))
    own = f"stages.{stage}."
    inherits = cfg["stages"][stage].get("dataset") is None
    shared = ["run.seed", "data.", "callbacks."]
    node = cfg["stages"][stage]
    if node.get("_stage_") not in LABEL_FREE or (node.get("objective") or {}).get("regress"):
        shared.append("labels.")
    result = {k: v for k, v in chosen.items() if k.startswith(tuple(shared))}
    result |= {k.removeprefix(own): v for k, v in chosen.items() if k.startswith(own)}
    if inherits:
        result.pop("dataset", None)
        result |= {k: v for k, v in chosen.items() if k.startswith("dataset.")}
    return _nested(result)
