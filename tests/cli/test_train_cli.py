"""`astro-train` as a person meets it: quick help, exit codes, sweeps, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from astroclip_train import __version__
from astroclip_train.cli import multirun as sweeps
from astroclip_train.cli.multirun import jobs_of, multirun
from astroclip_train.cli.train import main
from astroclip_train.errors import ConfigError
from astroclip_train.training.interruption import Interrupted, current

COMMAND = [sys.executable, "-m", "astroclip_train.cli.train"]
TINY = ["+experiment=specclip", "scale=tiny"]


def run(*words, cwd, **more):
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, check=False, **more)


def loaded(words, cwd):
    work = f"from astroclip_train.cli.train import main; main({words!r})"
    code = f"import sys; {work}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return set(done.stderr.split())


def test_help_lists_every_group_and_loads_nothing_heavy(tmp_path, capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    for word in (
        "+experiment",
        "specclip",
        "clip_split",
        "mock_stars",
        "--multirun",
        "--allow-target",
        "run.preflight",
    ):
        assert word in page
    assert max(map(len, page.splitlines())) <= 130
    assert not loaded(["--help"], tmp_path) & {"torch", "hydra", "omegaconf", "numpy", "pytorch_lightning"}


def test_showing_a_configuration_does_not_load_torch(tmp_path, capsys):
    assert main([*TINY, "--cfg", "job", "--resolve", "--package", "stages.lrs.scheduler"]) == 0
    assert capsys.readouterr().out == "name: warmup_cosine\nwarmup_steps: 2\nfloor: 0.01\n"
    assert main([*TINY, "--cfg", "job", "--package", "run.seed"]) == 0
    assert capsys.readouterr().out == "0\n"
    assert "torch" not in loaded([*TINY, "--cfg", "job"], tmp_path)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"astro-train {__version__}\n"


def test_help_finds_a_users_folder(tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# mine\n")
    assert main(["--help", "--config-dir", str(tmp_path)]) == 0
    assert "mine, specclip" in capsys.readouterr().out.replace("lamost_parameters, ", "").replace(
        "finetune, ", ""
    )


def test_a_reader_that_leaves_is_no_error(tmp_path):
    line = f"{' '.join(COMMAND)} {' '.join(TINY)} --cfg job | head -1"
    pipe = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "Traceback" not in pipe.stderr
    assert pipe.stdout.count("\n") == 1


def test_sweep_expands_in_order_with_the_last_key_fastest():
    points = [d for _, d in jobs_of([*TINY, "run.seed=1,2", "labels.n=10,20"], [])]
    assert points == [
        ["run.seed=1", "labels.n=10"], ["run.seed=1", "labels.n=20"],
        ["run.seed=2", "labels.n=10"], ["run.seed=2", "labels.n=20"],
    ]  # fmt: skip
    assert [d for _, d in jobs_of([*TINY, "run.seed=range(3)"], [])] == [[f"run.seed={i}"] for i in range(3)]


def test_sweep_files_can_be_narrowed_on_the_command_line():
    points = [d for _, d in jobs_of([*TINY, "+sweep=labels"], [])]
    assert points == [[f"labels.n={n}"] for n in (100, 300, 1000, 3000, 10000)]
    assert [d for _, d in jobs_of([*TINY, "+sweep=labels", "labels.n=5,6"], [])] == [
        ["labels.n=5"],
        ["labels.n=6"],
    ]


def test_no_job_starts_before_all_are_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "_run", lambda *_: pytest.fail("a job was started"))
    with pytest.raises(
        ConfigError, match=r"job 2 of 2 \(stages.lrs.optimizer.lr=fast\): stages.lrs.optimizer.lr=fast"
    ):
        multirun([*TINY, "stages.lrs.optimizer.lr=1e-3,fast"])


def test_a_failing_job_is_recorded_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    """The jobs are real processes, of a stand-in for the interpreter that ends as the seed says."""
    stand_in = tmp_path / "interpreter"
    stand_in.write_text(
        '#!/bin/sh\necho "$@" >> started\ncase "$*" in *run.seed=1*) exit 2;; *run.seed=2*) kill -9 $$;; esac\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    assert multirun([*TINY, "run.seed=0,1,2,3"]) == 1
    started = (tmp_path / "started").read_text().splitlines()
    assert [line.split()[-1] for line in started] == [f"run.seed={i}" for i in range(4)]
    told = capsys.readouterr().err
    assert "2 of 4 jobs done" in told
    assert "failed with exit code 2: run.seed=1" in told
    assert "ended by SIGKILL" in told
    (record,) = (tmp_path / "runs/specclip").glob("sweep-*.json")
    assert [j["exit"] for j in json.loads(record.read_text())["jobs"]] == [0, 2, -9, 0]


def test_a_signal_reaches_the_job_and_ends_the_sweep(tmp_path, monkeypatch, capsys):
    """As under srun: the parent must outlive its job, which saves."""
    stand_in = tmp_path / "interpreter"
    stand_in.write_text(
        "#!/bin/bash\necho x >> started\ntrap 'sleep 0.3; echo saved > saved; exit 138' USR1\n"
        "(sleep 0.5; kill -USR1 $PPID) &\nfor i in $(seq 100); do sleep 0.1; done\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    assert multirun([*TINY, "run.seed=0,1"]) == 138
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "started").read_text() == "x\n"
    assert "goes on with the jobs still owed" in capsys.readouterr().err


def test_a_finished_run_says_so_without_loading_torch(tmp_path, monkeypatch, capsys):
    from astroclip_train.config.compose import compose
    from astroclip_train.training.run_dir import RunDir

    monkeypatch.chdir(tmp_path)
    with RunDir(compose(TINY), TINY) as run_dir:
        run_dir.mark("finished")
        (run_dir.path / "report.html").write_text("")
    assert main(TINY) == 0
    seen = capsys.readouterr()
    assert seen.out == "runs/specclip/tiny-mock_stars-s0/report.html\n"
    assert "is finished" in seen.err
    assert "torch" not in loaded(TINY, tmp_path)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
    from astroclip_train.training.run_dir import RunDir

    def full(self):
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunDir, "open", full)
    assert main([*TINY]) == 2
    assert capsys.readouterr().err == (
        "astro-train: writing runs/x failed (No space left on device): "
        "free space or choose another run.root, then start again.\n"
    )


def test_a_bug_shows_a_traceback(tmp_path, monkeypatch):
    from astroclip_train.training.run_dir import RunDir

    def broken(self):
        raise KeyError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunDir, "open", broken)
    with pytest.raises(KeyError):
        main([*TINY])


def _answer_interrupts():
    """A shell that started the tests in the background made its children ignore Ctrl-C; a terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_interrupt_then_the_same_command_finishes(tmp_path):
    """Ctrl-C in the middle of training: exit code 130 and a sentence; the same command goes on to the report."""
    words = [*TINY, "stages.lrs.trainer.max_steps=400", "stages.lrs.trainer.val_every_steps=100"]
    child = subprocess.Popen(
        [*COMMAND, *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=_answer_interrupts,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not list(
        tmp_path.glob("runs/specclip/*/stages/lrs/checkpoints/*.ckpt")
    ):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    _, told = child.communicate(timeout=120)
    assert child.returncode == 130, told
    assert "the same command goes on from the newest checkpoint" in told
    assert "Traceback" not in told
    (record,) = tmp_path.glob("runs/specclip/*/run.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    again = run(*words, cwd=tmp_path, timeout=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(record.read_text())["status"] == "finished"


def test_a_signal_that_the_job_cannot_answer_yet_ends_the_sweep(tmp_path, monkeypatch):
    """A job dies of a signal before it has handlers: that is no failed point of the sweep."""
    stand_in = tmp_path / "interpreter"
    stand_in.write_text("#!/bin/bash\necho x >> started\n(sleep 0.3; kill -TERM $PPID) &\nexec sleep 20\n")
    stand_in.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(Interrupted) as stop:
        multirun([*TINY, "run.seed=0,1"])
    assert stop.value.signum == signal.SIGTERM
    assert current().received == [signal.SIGTERM]  # by which a SLURM job is queued again
    current().received.clear()
    assert (tmp_path / "started").read_text() == "x\n"


@pytest.mark.slow
def test_a_reader_of_messages_that_leaves_ends_no_training(tmp_path):
    """`astro-train … 2>&1 | head -1`, or a `tee` that dies."""
    words = [*TINY, "run.stages=[lrs,xp]", "run.evaluate=false"]
    line = f"{' '.join([*COMMAND, *words])} 2>&1 >/dev/null | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("runs/specclip/*/stages/*/done.json"))) == 2


def test_another_broken_pipe_is_no_success(tmp_path):
    code = (
        "from astroclip_train.cli._console import guard\n"
        "def work():\n    raise BrokenPipeError('of a worker')\n"
        "raise SystemExit(guard('x', work))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "of a worker" in done.stderr
