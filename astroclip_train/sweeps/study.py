"""The Optuna study of a sweep: opened by any number of workers, one trial at a time handed to each.

A running trial is held by a lease of ours in the sweep's folder. A trial whose worker died is handed out again with the
same number and parameters, so that its run goes on from its checkpoint; none is started twice.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, RunError, require
from ..files import read_json, write_json
from ..training.claims import claimed
from ..training.lease import Lease
from ..training.requeue import newest_progress
from .plan import Plan
from .space import grid, random_point

__all__ = ["Claim", "SweepStudy", "load_study", "open_storage"]

NAME = "sweep"
JOURNAL = "study.journal"


@dataclass
class Claim:
    """A trial that this worker holds.

    Attributes:
        id: Optuna's.
        number: counted from 0.
        params: dimension -> value.
        resumed: whether another worker began it.
        lease: of the trial.
    """

    id: int
    number: int
    params: dict[str, Any]
    resumed: bool
    lease: Lease


def open_storage(folder: Path, url: str | None) -> Any:
    """A journal file with a lock that works on network file systems, or what a URL names."""
    optuna = require("optuna", extra="sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url:
        return optuna.storages.get_storage(url)
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def load_study(folder: Path) -> tuple[Any, dict[str, Any]]:
    """An existing study, to read, and the content of sweep.json.

    Raises:
        RunError: the folder holds no study.
    """
    optuna = require("optuna", extra="sweep")
    file = folder / "sweep.json"
    if not file.exists():
        near = sorted(str(p.parent) for p in folder.glob("**/sweep.json"))[:3]
        advice = (
            f"did you mean {', '.join(near)}?" if near else "start one with astro-train -m +sweep=optuna."
        )
        raise RunError(f"{folder} is not the folder of a sweep, it has no sweep.json: {advice}")
    record = read_json(file)
    storage = open_storage(folder, record.get("storage"))
    return optuna.load_study(study_name=record["study"], storage=storage), record


class SweepStudy:
    """The study of a plan.

    Arguments:
        plan: what is searched; its folder is made.

    Raises:
        ConfigError: the folder belongs to another sweep, or the storage does not go with several workers.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.folder = plan, plan.folder
        self.settings = plan.settings
        self._thread = threading.Lock()
        optuna = require("optuna", extra="sweep")
        self.states = optuna.trial.TrialState
        self._alone: Lease | None = None
        url = self.settings["storage"]
        if url and str(url).startswith("sqlite"):
            self._one_process()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_record()
        self.storage = open_storage(self.folder, url)
        self.study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, direction=self.settings["direction"],
            load_if_exists=True, sampler=optuna.samplers.RandomSampler(0), pruner=self._pruner(optuna),
        )  # fmt: skip
        self.distributions = {d.name: d.distribution() for d in plan.space}

    @property
    def study_name(self) -> str:
        """Unique in a storage of its own; in a shared one the folder's name tells sweeps apart."""
        return self.folder.name if self.settings["storage"] else NAME

    def _one_process(self) -> None:
        if self.settings["workers"] > 1:
            raise ConfigError(
                f"sweep.storage={self.settings['storage']} is SQLite, which several workers damage on shared disks: "
                "take sweep.workers=1, or leave sweep.storage out for a journal file."
            )
        self._alone = Lease(self.folder / "sqlite.lease.json").acquire()

    def _write_record(self) -> None:
        file = self.folder / "sweep.json"
        record = {**self.plan.record(), "study": self.study_name, "storage": self.settings["storage"]}
        if file.exists():
            there, here = read_json(file)["definition"], record["definition"]
            changed = [k for k in here if k in there and there[k] != here[k]]
            if changed:
                raise ConfigError(
                    f"{self.folder} holds another sweep (its {', '.join(changed)} differ): choose another sweep.name."
                )
            if read_json(file)["n_trials"] == record["n_trials"]:
                return
        write_json(file, record)

    def _pruner(self, optuna: Any) -> Any:
        node = self.settings["pruner"]
        if node["name"] == "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=node["startup_trials"], n_warmup_steps=node["warmup_steps"]
            )
        if node["name"] == "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=max(1, node["warmup_steps"]), max_resource=self.plan.max_steps,
                reduction_factor=node["reduction"],
            )  # fmt: skip
        return optuna.pruners.NopPruner()

    # -- reading ----------------------------------------------------------------------------------------------------

    def trials(self, *states: Any) -> list[Any]:
        """All trials, or those in some states, by number."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    @property
    def done(self) -> list[Any]:
        """Trials that have ended."""
        return [t for t in self.trials() if t.state.is_finished()]

    def best(self) -> Any | None:
        """The completed trial with the best value; of equal ones the first."""
        sign = 1 if self.settings["direction"] == "minimize" else -1
        return min(self.trials(self.states.COMPLETE), key=lambda t: (sign * t.value, t.number), default=None)

    def got_on(self) -> float:
        """When a trial last ended or a running one last saved, in seconds since 1970; 0 if never."""
        ended = [t.datetime_complete.timestamp() for t in self.done if t.datetime_complete]
        runs = [t.user_attrs["run"] for t in self.trials(self.states.RUNNING) if "run" in t.user_attrs]
        return max([*ended, *(newest_progress(Path(run)) for run in runs)], default=0.0)

    # -- handing out ------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone_here(self) -> Iterator[None]:
        """One worker at a time, of this process and of all others."""
        with self._thread, claimed(self.folder / "ask.lease.json", poll=0.1):
            yield

    def trial_folder(self, number: int) -> Path:
        """Where a trial's lease and log are."""
        return self.folder / "trials" / f"{number:04d}"

    def next(self) -> Claim | None:
        """A trial whose worker died, else a new one while some are owed; None when there is nothing to do now.

        Raises:
            RunError: more trials failed than `sweep.max_failures`.
        """
        with self._alone_here():
            failed = self.trials(self.states.FAIL)
            if len(failed) > self.settings["max_failures"]:
                last = failed[-1].user_attrs.get("reason", "no reason was written")
                raise RunError(
                    f"{len(failed)} trials of {self.folder} failed, more than sweep.max_failures="
                    f"{self.settings['max_failures']} (the last: {last.rstrip('.')}): correct the cause and choose "
                    "another sweep.name, or raise sweep.max_failures to go on."
                )
            for trial in self.trials(self.states.RUNNING):
                lease = self._lease(trial.number)
                try:
                    lease.acquire()
                except RunError:
                    continue
                return Claim(trial._trial_id, trial.number, self._params(trial), True, lease)
            waiting = self.trials(self.states.WAITING)
            if len(self.trials()) - len(waiting) >= self.plan.n_trials:
                return None
            return self._ask(bool(waiting))

    def _ask(self, waiting: bool) -> Claim:
        number, seed = len(self.trials()), self.settings["seed"]
        if self.settings["kind"] == "optuna":
            self.study.sampler = self._sampler(number)
        elif not waiting:  # else one was enqueued by a worker that died before it took it
            space, kind = self.plan.space, self.settings["kind"]
            self.study.enqueue_trial(
                grid(space)[number] if kind == "grid" else random_point(space, seed, number)
            )
        trial = self.study.ask(self.distributions)
        lease = self._lease(trial.number).acquire()
        return Claim(trial._trial_id, trial.number, dict(trial.params), False, lease)

    def _sampler(self, number: int) -> Any:
        """A sampler for each trial: the next point depends on the study, not on who asks or what it did before."""
        optuna = require("optuna", extra="sweep")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self.settings["startup_trials"], multivariate=True, constant_liar=True,
                seed=(int(self.settings["seed"]) * 1_000_003 + number) % 2**32,
            )  # fmt: skip

    def _params(self, trial: Any) -> dict[str, Any]:
        """A running trial's parameters; those that its worker died before writing are drawn as it would have."""
        if len(trial.params) < len(self.distributions):
            optuna = require("optuna", extra="sweep")
            if self.settings["kind"] == "optuna":
                self.study.sampler = self._sampler(trial.number)
            again = optuna.trial.Trial(self.study, trial._trial_id)
            for name, distribution in self.distributions.items():
                again._suggest(name, distribution)
            trial = self.storage.get_trial(trial._trial_id)
        return dict(trial.params)

    def _lease(self, number: int) -> Lease:
        return Lease(self.trial_folder(number) / "lease.json")

    # -- writing ----------------------------------------------------------------------------------------------------

    def note(self, claim: Claim, **attributes: Any) -> None:
        """Attaches plain values to a trial."""
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(claim.id, name, value)

    def report(self, claim: Claim, rows: list[tuple[int, float]], *, ended: bool = False) -> bool:
        """Books intermediate values that are new, and says whether the trial should be stopped; none that has ended."""
        known = self.storage.get_trial(claim.id).intermediate_values
        fresh = [(step, value) for step, value in rows if step not in known]
        for step, value in fresh:
            self.storage.set_trial_intermediate_value(claim.id, step, value)
            if not ended and self.study.pruner.prune(self.study, self.storage.get_trial(claim.id)):
                return True
        return False

    def tell(self, claim: Claim, state: Any, value: float | None = None) -> None:
        """Ends a trial."""
        self.study.tell(claim.number, value if state == self.states.COMPLETE else None, state=state)

    def close(self) -> None:
        """Gives back what only one process may hold."""
        if self._alone is not None:
            self._alone.release()
