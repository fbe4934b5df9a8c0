"""One writer at a time: real processes, kill -9, suspended owners."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from astroclip_train.errors import RunError
from astroclip_train.training.lease import Lease

HOLD = """
import sys, time
from astroclip_train.training.lease import Lease
lease = Lease(sys.argv[1], beat=0.1)
try:
    lease.acquire()
except Exception as error:
    print("refused", error, flush=True)
    sys.exit(2)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
lease.release()
"""


@contextlib.contextmanager
def holder(path, seconds=30.0):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_second_live_process_is_refused_and_told_who(tmp_path):
    path = tmp_path / "lease.json"
    with holder(path) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"is being written by process {owner.pid} on ") as refusal:
            Lease(path).acquire()
        assert "\n" not in str(refusal.value)
        done = subprocess.run(
            [sys.executable, "-c", HOLD, str(path), "0"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert f"process {owner.pid}" in done.stdout


def test_a_killed_owner_is_replaced_at_once(tmp_path):
    path = tmp_path / "lease.json"
    with holder(path) as owner:
        owner.stdout.readline()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        start = time.monotonic()
        with Lease(path):
            assert time.monotonic() - start < 1.0
        assert sorted(p.name for p in tmp_path.iterdir()) == []


def test_of_many_contenders_for_a_dead_lease_one_wins(tmp_path):
    path = tmp_path / "lease.json"
    with holder(path) as owner:
        owner.stdout.readline()
        owner.kill()
        owner.wait()

    def contend(_):
        lease = Lease(path)
        try:
            return lease.acquire()
        except RunError:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [lease for lease in pool.map(contend, range(16)) if lease]
    assert len(winners) == 1
    winners[0].check()
    winners[0].release()


def test_processes_that_start_together_exclude_each_other(tmp_path):
    path = tmp_path / "lease.json"
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(holder(path, 5.0)) for _ in range(3)]
        answers = [child.stdout.readline().split()[0] for child in children]
    assert sorted(answers) == ["held", "refused", "refused"]


def test_a_lease_of_another_host_lives_by_its_heartbeat(tmp_path):
    path = tmp_path / "lease.json"
    Lease(path)._create(path)
    foreign = (
        path.read_text()
        .replace('"machine": "', '"machine": "elsewhere-')
        .replace('"host": "', '"host": "node7-')
    )
    path.write_text(foreign)
    with pytest.raises(RunError, match="on node7-"):
        Lease(path, stale=60).acquire()
    long_ago = time.time() - 120
    os.utime(path, (long_ago, long_ago))
    with Lease(path, beat=0.05, stale=60) as mine:
        mine.check()


def test_a_process_number_that_was_given_again_is_not_the_owner(tmp_path):
    path = tmp_path / "lease.json"
    lease = Lease(path)
    lease.owner["started"] = "1"  # this very pid, but born at another time
    lease._create(path)
    Lease(path).acquire().release()


def test_a_suspended_owner_notices_and_leaves_the_new_lease_alone(tmp_path):
    path = tmp_path / "lease.json"
    first = Lease(path, beat=0.05).acquire()
    path.unlink()
    second = Lease(path, beat=0.05).acquire()
    with pytest.raises(RunError, match="taken over by another process"):
        first.check()
    first.release()
    second.check()
    second.release()
    assert not path.exists()


def test_a_half_written_lease_is_respected_while_it_is_young(tmp_path):
    path = tmp_path / "lease.json"
    path.write_text("")
    with pytest.raises(RunError, match="is being written"):
        Lease(path, stale=60).acquire()
    os.utime(path, (0, 0))
    Lease(path, beat=0.05, stale=60).acquire().release()


def test_heartbeat_touches_the_file(tmp_path):
    path = tmp_path / "lease.json"
    with Lease(path, beat=0.05):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1


def foreign(path, **changes):
    """A lease held by a live-looking writer on another machine."""
    owner = {**Lease(path).owner, "host": "node7", "machine": "elsewhere", **changes}
    path.write_text(json.dumps(owner))


def test_a_requeued_job_takes_over_from_its_own_dead_start(tmp_path, monkeypatch):
    """SLURM starts a job again only when its first start is gone, on whatever node that was."""
    path = tmp_path / "lease.json"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    foreign(path, job="12", restart=0)
    start = time.monotonic()
    Lease(path).acquire().release()
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("other", [{"job": "12", "restart": 1}, {"job": "12", "restart": 2}, {"job": None}])
def test_another_live_writer_is_respected_under_slurm_too(tmp_path, monkeypatch, other):
    path = tmp_path / "lease.json"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM to ask
    foreign(path, **other)
    with pytest.raises(RunError, match="on node7"):
        Lease(path).acquire()


def test_nothing_needs_file_locks(tmp_path, monkeypatch):
    """Lustre without flock and NFS without lockd refuse the calls; neither lease nor stores make them."""
    code = """
import fcntl, sys
def refuse(*_): raise OSError(38, "Function not implemented")
fcntl.flock = fcntl.lockf = refuse
from astroclip_train.training.lease import Lease
with Lease(sys.argv[1]):
    print("held")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lease.json")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "held\n"
