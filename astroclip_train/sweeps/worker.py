"""The workers of a sweep: each takes a trial, trains it, books how it ended, until none is owed."""

import json
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..distributed.geometry import machine_of
from ..errors import AstroTrainError, ConfigError, RunError
from ..files import write_json
from ..training.claims import claimed
from ..training.interruption import SIGNALS, Interrupted, Interruption
from ..training.progress import say
from ..training.requeue import check_progress, leave, own_job
from ..training.run_dir import launch_id
from .page import write_page
from .plan import Plan, Prepare
from .space import names
from .study import Claim, SweepStudy
from .table import command
from .trial import Ending, child_environment, run_trial, why

__all__ = ["run_sweep"]

PRUNE = "prune"
MOST_KILLS = 2  # a process killed from outside is started again so often
SIGNAL_DELAY = 1.0  # seconds by which a signal to all processes may reach the trial before the sweep


def run_sweep(plan: Plan, prepare: Prepare) -> int:
    """Trains the trials that are owed, then evaluates the selected one on test objects.

    Arguments:
        plan: see `plan_of`.
        prepare: composes and checks a command and finds its run directory.

    Returns:
        0; 128 + the signal's number if one stopped it.

    Raises:
        RunError: too many trials failed, or all did.
        ConfigError: the metric is not measured, or the selected configuration cannot be used.
    """
    return SweepRun(plan, prepare).run()


class SweepRun:
    """One command's share of a sweep.

    Arguments:
        plan, prepare: see `run_sweep`.
    """

    def __init__(self, plan: Plan, prepare: Prepare) -> None:
        self.plan, self.prepare = plan, prepare
        self.study = SweepStudy(plan)
        self.states = self.study.states
        self.short = names([d.name for d in plan.space])
        self.options = [f"--config-dir={d}" for d in plan.config_dirs]
        self.options += [f"--allow-target={p}" for p in plan.allowed]
        self.stop = threading.Event()  # leave as soon as possible
        self.enough = threading.Event()  # finish what runs, begin nothing
        self.interruption = Interruption()
        self.interruption.requeue = plan.requeue
        self.error: BaseException | None = None
        self.launch = launch_id()
        self.seconds: list[float] = []
        self.preparing = threading.Lock()  # composition has global state

    def run(self) -> int:
        """Works until nothing is owed; see `run_sweep`."""
        done, n = len(self.study.done), self.plan.n_trials
        say(f"sweep of {n} trials, {done} done; {self.study.folder}")
        try:
            self._book_start()
            with self._signals():
                self._work()
                if self.error is not None:
                    raise self.error
                if self.interruption.requested():
                    return self._leave("the trials still owed")
                return self._finish()
        finally:
            self.study.close()

    def _book_start(self) -> None:
        """Ends a SLURM job that would queue itself again for ever, see `training.requeue`."""
        job, file = own_job(), self.study.folder / "launches.jsonl"
        if job is None:
            return
        lines = file.read_text().splitlines() if file.exists() else []
        check_progress(self.study.folder, [json.loads(line) for line in lines], self.study.got_on())
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "job": job.name}
        with file.open("a") as handle:  # one short write: whole lines, also from several jobs
            handle.write(json.dumps(entry) + "\n")

    def _leave(self, rest: str) -> int:
        """Queues the sweep's own SLURM job again where a run would, see `training.requeue`."""
        stop = Interrupted(self.interruption.signum)
        code, what_now = leave(stop, self.interruption)
        say(f"stopped by {stop}; the same command goes on with {rest}.")
        if own_job() is not None:
            say(what_now)
        return code

    def _work(self) -> None:
        count = min(self.plan.settings["workers"], self.plan.n_trials)
        threads = [threading.Thread(target=self._worker, args=(i,), daemon=True) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # signals reach the main thread between joins

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """A signal stops the trials, which save and stay owed."""

        def handle(number: int, frame: Any) -> None:
            self.interruption.received.append(number)
            self.stop.set()

        numbers = [signal.SIGINT, signal.SIGHUP, *SIGNALS]
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- one worker -------------------------------------------------------------------------------------------------

    def _worker(self, index: int) -> None:
        try:
            while not (self.stop.is_set() or self.enough.is_set()):
                claim = self.study.next()
                if claim is None:
                    return
                try:
                    self._trial(claim, index)
                finally:
                    claim.lease.release()
        except BaseException as error:
            self.error = self.error or error
            self.enough.set()
            if isinstance(error, ConfigError):  # every other trial would meet it too
                self.stop.set()

    def _trial(self, claim: Claim, index: int) -> None:
        overrides = self.plan.trial_overrides(claim.params)
        try:
            with self.preparing:
                run_dir = self.prepare(overrides, self.plan.config_dirs, self.plan.allowed)
        except AstroTrainError as error:
            self._fail(claim, str(error))
            return
        run, log = Path(run_dir.path), self.study.trial_folder(claim.number) / "log.txt"
        self.study.note(claim, run=str(run), host=socket.gethostname(), log=str(log))
        again = "again " if claim.resumed else ""
        say(f"trial {claim.number} {again}{self._point(claim)} -> {run}")
        start = time.monotonic()
        asked = machine_of(run_dir.cfg).devices
        devices = asked if isinstance(asked, int) else 1
        environment = child_environment(self.launch, index, self.plan.settings["workers"], devices)
        for _ in range(MOST_KILLS + 1):
            ending = run_trial(
                overrides, self.options, run, log, environment, lambda: self._watch(claim, run), self.stop
            )
            if not ending.killed or self.stop.wait(SIGNAL_DELAY):
                break
        self._book(claim, run, log, ending, time.monotonic() - start)

    def _watch(self, claim: Claim, run: Path) -> Any:
        """Reports what the trial has validated; a verdict if it should go no further."""
        rows = self.plan.metric.rows(run, growing=True)
        if not rows:
            return self.plan.metric.absent(run, growing=True)
        return PRUNE if self.study.report(claim, rows) else None

    def _book(self, claim: Claim, run: Path, log: Path, ending: Ending, seconds: float) -> None:
        if ending.stopped or self.stop.is_set():
            return  # the trial stays owed
        if isinstance(ending.verdict, ConfigError):
            self._fail(claim, str(ending.verdict))
            raise ending.verdict
        self.study.note(claim, seconds=round(seconds, 1))
        if ending.verdict == PRUNE:
            self._prune(claim)
        elif ending.code:
            self._fail(claim, why(run, log, ending.code))
        else:
            self._complete(claim, run)
        self.seconds.append(seconds)

    def _complete(self, claim: Claim, run: Path) -> None:
        metric = self.plan.metric
        self.study.report(claim, metric.rows(run), ended=True)
        value = metric.value(run)
        if value is None:
            error = metric.absent(run) or ConfigError(
                f"sweep.metric={metric.name} was never measured: check trainer.val_every_steps of {metric.stage}."
            )
            self._fail(claim, str(error))
            raise error
        if not math.isfinite(value):
            self._fail(claim, f"{metric.name} is {value}")
            return
        self.study.tell(claim, self.states.COMPLETE, value)
        best: Any = self.study.best()
        said = (
            "the best so far"
            if best.number == claim.number
            else f"best {best.value:.5g} by trial {best.number}"
        )
        self._progress(f"trial {claim.number}: {metric.name} {value:.5g}, {said}")

    def _prune(self, claim: Claim) -> None:
        values = self.study.storage.get_trial(claim.id).intermediate_values
        step = max(values)
        self.study.tell(claim, self.states.PRUNED)
        self._progress(
            f"trial {claim.number}: pruned at step {step:,}, {self.plan.metric.name} {values[step]:.5g}"
        )

    def _fail(self, claim: Claim, reason: str) -> None:
        self.study.note(claim, reason=reason)
        self.study.tell(claim, self.states.FAIL)
        self._progress(f"trial {claim.number} failed: {reason}")

    def _progress(self, text: str) -> None:
        done, n = len(self.study.done), self.plan.n_trials
        left = max(0, n - done)
        if self.seconds and left:
            minutes = left * sum(self.seconds) / len(self.seconds) / self.plan.settings["workers"] / 60
            text += f"; {done} of {n}, about {minutes:.0f} min left" if minutes >= 1 else f"; {done} of {n}"
        say(text)

    def _point(self, claim: Claim) -> str:
        return " ".join(f"{self.short[k]}={_shown(v)}" for k, v in claim.params.items())

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> int:
        running = self.study.trials(self.states.RUNNING)
        if running or len(self.study.done) < self.plan.n_trials:
            say(f"{len(running)} trials are still being trained by other workers, which finish the sweep.")
            return 0
        best = self.study.best()
        if best is None:
            raise RunError(
                f"no trial of {self.study.folder} has a value: see the reasons with astro-model sweep."
            )
        try:
            with claimed(self.study.folder / "final.lease.json", stop=self.stop.is_set):
                return self._select(best)
        except Interrupted:
            return self._leave("the evaluation of the selected trial")

    def _select(self, best: Any) -> int:
        params = dict(best.params)
        text = command(self.plan.record(), params)
        with self.preparing:
            run_dir = self.prepare(self.plan.overrides(params), self.plan.config_dirs, self.plan.allowed)
        if self.plan.settings["evaluate"] and not run_dir.finished:
            say(f"trial {best.number} is selected: its remaining stages, then the test split")
            environment = child_environment(self.launch, 0, 1, 1)
            log = self.study.folder / "final.txt"
            ending = run_trial(
                self.plan.overrides(params),
                self.options,
                Path(run_dir.path),
                log,
                environment,
                lambda: None,
                self.stop,
            )
            if self.interruption.requested():
                return self._leave("the evaluation of the selected trial")
            if ending.code:
                raise RunError(
                    f"the selected trial {best.number} could not be evaluated "
                    f"({why(Path(run_dir.path), log, ending.code).rstrip('.')}): see {log}, then start it again."
                )
        record = {"trial": best.number, "value": best.value, "params": params, "run": str(run_dir.path)}
        write_json(self.study.folder / "best.json", {**record, "command": text})
        page = write_page(self.study.folder)
        say(f"best: {self.plan.metric.name} {best.value:.5g} by trial {best.number}\n  {text}")
        print(page)
        return 0


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
