"""The directory of one run: its name, its generation, who may write in it, and what it says about itself."""

import os
import re
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config.compose import compose, normalise
from ..config.fingerprint import fingerprint
from ..config.keys import command_identity, differences, flat, identity
from ..config.rules import references
from ..errors import AstroTrainError, ConfigError, RunError
from ..files import read_json, write_json, write_text
from .environment import content_hashes, environment
from .interruption import Interrupted, current
from .lease import Lease
from .metrics_log import MetricsLog
from .progress import keep_log
from .requeue import check_progress, newest_progress, own_job

__all__ = ["RunDir", "default_name", "launch_id"]

FORMAT = 1
DONE = ("done.json", "reused.json")  # either says that a stage is finished
BASE_KEYS = ("experiment", "scale", "dataset", "run.seed")  # what the default name spells out


def launch_id() -> str:
    """What one launch is: a SLURM job keeps its number when it is requeued; by hand every command is a new launch."""
    given, job = (os.environ.get(name) for name in ("ASTRO_TRAIN_LAUNCH", "SLURM_JOB_ID"))
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    by_hand = job is None or (
        tasks == "1" and sys.stdin is not None and sys.stdin.isatty()
    )  # a shell of salloc
    return given or (uuid.uuid4().hex if by_hand else f"slurm-{job}")


def default_name(cfg: DictConfig, overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> str:
    """`<scale>-<dataset>-s<seed>`, with a short hash of all further changes of identity: a function of the command."""
    choices = cfg.get("choices") or {}
    words = [cfg.get("scale") or choices.get("scale"), choices.get("dataset"), f"s{cfg['run']['seed']}"]
    name = "-".join(re.sub(r"[^\w.]+", "_", str(w)) for w in words if w)
    base = tuple(o for o in map(normalise, overrides) if o.split("=")[0].lstrip("+~") in BASE_KEYS)
    further = differences(_base_identity(base, tuple(map(str, config_dirs))), command_identity(cfg))
    changed = {key: there_here[1] for key, there_here in further.items()}
    return f"{name}-{fingerprint(changed)[:7]}" if changed else name


@lru_cache(maxsize=16)  # the jobs of a sweep share it
def _base_identity(overrides: tuple[str, ...], config_dirs: tuple[str, ...]) -> dict[str, Any]:
    """Identity keys of the plain command, which may lack mandatory values."""
    cfg = compose(overrides, config_dirs, resolved=False)
    for key, value in flat(cfg).items():
        if value == "???" or (isinstance(value, str) and value.startswith("${") and _unresolvable(cfg, key)):
            OmegaConf.update(cfg, key, None, force_add=True)
    OmegaConf.resolve(cfg)
    return command_identity(cfg)


def _unresolvable(cfg: DictConfig, key: str) -> bool:
    try:
        OmegaConf.select(cfg, key, throw_on_missing=True)
    except Exception:
        return True
    return False


class RunDir:
    """The directory `run.root/<experiment>/<name>`, or `<name>.g002` for a second generation.

    Making the object reads only; `open` takes the lease and writes.

    Arguments:
        cfg: the composed, resolved and validated configuration.
        overrides: the command's overrides.
        config_dirs: folders searched beside the packaged one.
        launch: see `launch_id`.

    Attributes:
        path: the folder.
        experiment, name, generation: what makes its path.
        cfg: the configuration with extended schedules.
        record: the content of run.json, empty for a new run.
        extension: stage -> steps, as lengthened by `run.extend`.

    Raises:
        RunError: a run of that name has another identity.
        ConfigError: `run.name` or `run.extend` cannot be used.
    """

    def __init__(
        self,
        cfg: DictConfig,
        overrides: Sequence[str] = (),
        config_dirs: Sequence[str | Path] = (),
        *,
        launch: str | None = None,
    ) -> None:
        self.overrides = [normalise(o) for o in overrides]
        self.launch = launch or launch_id()
        self.experiment = str(cfg.get("experiment") or "run")
        by_hand = cfg["run"]["name"]
        self.name = (
            _checked(str(by_hand)) if by_hand is not None else default_name(cfg, overrides, config_dirs)
        )
        self.root = Path(cfg["run"]["root"])
        self.fresh = bool(cfg["run"]["fresh"])
        self.preflight = bool(cfg["run"]["preflight"])
        current().requeue = False if self.preflight else cfg["run"]["requeue"]
        self.identity = {
            **flat(identity(cfg)),
            **{f"content of {k}": v for k, v in content_hashes(cfg).items() if v},
        }
        self.generation = self._generation()
        self.home = self._path(self.generation)
        self.record: dict[str, Any] = self._read(self.generation)
        self._temporary = tempfile.TemporaryDirectory(prefix="astro-train-") if self.preflight else None
        self.path = Path(self._temporary.name) if self._temporary else self.home
        self._check_identity()
        self.extension = self._extensions(cfg)
        self.planned: dict[str, int] = {}  # steps of extended stages before the extension
        self.cfg = self._extended(cfg)
        self.lease = Lease(self.path / "lease.json")

    # -- where ------------------------------------------------------------------------------------------------------

    def _path(self, generation: int) -> Path:
        suffix = f".g{generation:03d}" if generation > 1 else ""
        return self.root / self.experiment / f"{self.name}{suffix}"

    def _read(self, generation: int) -> dict[str, Any]:
        file = self._path(generation) / "run.json"
        return read_json(file) if file.exists() else {}

    def _generation(self) -> int:
        newest = 1
        while (self._path(newest + 1) / "run.json").exists():
            newest += 1
        record = self._read(newest)
        started_by_this = record.get("launch") == self.launch and (newest > 1 or record.get("fresh", False))
        return newest + 1 if self.fresh and record and not started_by_this else newest

    def stage_dir(self, stage: str) -> Path:
        """The folder of a stage; a preflight finds there what the run has finished and it does not repeat."""
        chosen = self.cfg["run"]["stages"]
        if self.preflight and chosen is not None and stage not in chosen:
            return self.home / "stages" / stage
        return self.path / "stages" / stage

    @cached_property
    def metrics(self) -> MetricsLog:
        """The run's metrics.csv."""
        return MetricsLog(self.path / "metrics.csv")

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str | None:
        """running, interrupted, failed, partial, finished; None for a new run."""
        return self.record.get("status")

    @property
    def finished(self) -> bool:
        """Whether all its stages are done, and no more steps were asked for."""
        return self.status == "finished" and self.record.get("extension", {}) == self.extension

    def _check_identity(self) -> None:
        if not self.record:
            return
        there = self.record["identity"]
        contents = {k for k in there if k.startswith("content of ")} & set(self.identity)
        here = {k: v for k, v in self.identity.items() if not k.startswith("content of ") or k in contents}
        there = {k: v for k, v in there.items() if not k.startswith("content of ") or k in contents}
        changed = differences(there, here)
        if changed and self._failed_at_once():
            self.record = {}
        elif changed:
            listed = ", ".join(
                f"{k}: {_short(a)} there, {_short(b)} here" for k, (a, b) in list(changed.items())[:6]
            )
            more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
            following = f"g{self.generation + 1:03d}"
            raise RunError(
                f"{self.home} was made with other settings ({listed}{more}): "
                f"choose another run.name, or add run.fresh=true to start {following} beside it."
            )

    def _failed_at_once(self) -> bool:
        """Whether the run failed before its first stage: it has nothing to lose and gives its name back."""
        trained = any((self.home / name).exists() for name in ("stages", "metrics.csv"))
        return self.status == "failed" and not trained

    def _extensions(self, cfg: DictConfig) -> dict[str, int]:
        booked = {k: int(v) for k, v in self.record.get("extension", {}).items()}
        steps = cfg["run"]["extend"]
        if steps is None:
            return booked
        trained = [
            s
            for s, node in cfg["stages"].items()
            if "max_steps" in (node.get("trainer") or {}) and node.get("_stage_") != "heads"
        ]
        if not trained:
            raise ConfigError(
                f"run.extend={steps} has no stage to lengthen here: steps of heads are part of the run's identity, "
                "set stages.heads.trainer.max_steps or those of a task."
            )
        chosen = list(cfg["run"]["stages"] or trained)
        if len(chosen) != 1 or chosen[0] not in trained:
            raise ConfigError(
                f"run.extend={steps} needs one stage whose schedule it lengthens: add run.stages=[STAGE], "
                f"one of {', '.join(trained)}."
            )
        planned = int(cfg["stages"][chosen[0]]["trainer"]["max_steps"])
        if int(steps) < planned or int(steps) < booked.get(chosen[0], 0):
            longest = max(planned, booked.get(chosen[0], 0))
            raise ConfigError(
                f"run.extend={steps} is shorter than the {longest} steps of stage {chosen[0]}: "
                "give the new total number of steps."
            )
        if int(steps) > booked.get(chosen[0], planned):
            self._check_unused(chosen[0])
        return {**booked, chosen[0]: int(steps)}

    def _check_unused(self, stage: str) -> None:
        """Refuses to lengthen a stage that other runs have taken from here: they would change behind their backs."""
        folder = (self.home / "stages" / stage).resolve()
        links = self.root.glob("*/*/stages/*/reused.json") if folder.exists() else ()
        users = sorted(
            str(link.parents[2]) for link in links if Path(read_json(link).get("folder", "")) == folder
        )
        if users:
            more = f" and {len(users) - 1} more" if len(users) > 1 else ""
            raise RunError(
                f"{users[0]}{more} use{'' if more else 's'} stage {stage} of {self.home}, which run.extend would "
                f"change: set stages.{stage}.trainer.max_steps instead, which trains the longer schedule in a run "
                "of its own."
            )

    def _extended(self, cfg: DictConfig) -> DictConfig:
        if not self.extension:
            return cfg
        longer = cfg.copy()
        for stage, steps in self.extension.items():
            if stage in longer["stages"]:
                self.planned[stage] = int(longer["stages"][stage]["trainer"]["max_steps"])
                longer["stages"][stage]["trainer"]["max_steps"] = steps
        return longer

    def check_inputs(self) -> None:
        """Checks that the stages which are not done now, but whose results are needed, are finished here.

        Raises:
            RunError: one is not.
        """
        chosen = self.cfg["run"]["stages"]
        for name in chosen or ():
            for _, origin in references(self.cfg["stages"][name]):
                if origin not in self.cfg["stages"] or origin in chosen:
                    continue
                folder = self.stage_dir(origin)
                if not any((folder / file).exists() for file in DONE):
                    raise RunError(
                        f"stage {name} needs stage {origin}, which is not finished in {self.home}: "
                        f"add {origin} to run.stages; if it is finished in another run, it is taken from there."
                    )

    # -- writing ----------------------------------------------------------------------------------------------------

    def open(self) -> "RunDir":
        """Takes the lease and writes config.yaml, overrides.txt, environment.json and run.json.

        Raises:
            RunError: a live process writes there.
        """
        check_progress(self.path, self.record.get("launches", []), newest_progress(self.path))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be made ({error.strerror or error}): choose a run.root that can be written."
            ) from error
        self.lease.acquire()
        try:
            # it may have been changed while we waited
            self.record = self._read(self.generation) or self.record
            self._check_identity()
            if not self.record:
                (self.path / "wandb.json").unlink(missing_ok=True)
            keep_log(self.path / "logs" / "rank-0.log")
            write_text(self.path / "config.yaml", OmegaConf.to_yaml(self.cfg))
            write_text(self.path / "overrides.txt", "".join(f"{o}\n" for o in self.overrides))
            write_json(self.path / "environment.json", environment())
            self.record = {
                "format": FORMAT,
                "experiment": self.experiment,
                "name": self.name,
                "generation": self.generation,
                "launch": self.record.get("launch", self.launch),
                "fresh": self.record.get("fresh", self.fresh),
                "created": self.record.get("created", _now()),
                "identity": self.identity,
                "extension": self.extension,
                "launches": [
                    *self.record.get("launches", []),
                    self._launch(),
                ],
            }
            self.mark("running")
        except BaseException:
            self.lease.release()
            raise
        return self

    def _launch(self) -> dict[str, Any]:
        job = own_job()
        where = {"job": job.name, "restart": job.restart} if job else {}
        return {"id": self.launch, "time": _now(), "host": socket.gethostname(), "pid": os.getpid(), **where}

    def mark(self, status: str) -> None:
        """Writes a new status into run.json."""
        self.record = {**self.record, "status": status, "changed": _now()}
        write_json(self.path / "run.json", self.record)

    def close(self, status: str | None = None) -> None:
        """Writes the status if one is given and gives the lease back; a preflight's folder is removed."""
        try:
            if status is not None and self.lease.held and not self.lease.lost:
                self.mark(status)
        finally:
            keep_log(None)
            self.lease.release()
            if self._temporary is not None:
                self._temporary.cleanup()

    def __enter__(self) -> "RunDir":
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:
            self.close()  # the runner has marked it
        elif issubclass(kind, KeyboardInterrupt | SystemExit | Interrupted):
            self.close("interrupted")
        else:
            self.record["error"] = (
                str(error) if isinstance(error, AstroTrainError) else f"{kind.__name__}: {error}"
            )
            self.close("failed")


def _checked(name: str) -> str:
    if not re.fullmatch(r"[\w][\w.+=@-]*", name):
        raise ConfigError(
            f"run.name={name} is not usable as a folder name: use letters, digits and . _ - + = @."
        )
    if re.search(r"\.g\d{3}$", name):
        raise ConfigError(
            f"run.name={name} ends like a generation: leave out the ending, run.fresh=true makes one."
        )
    return name


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
