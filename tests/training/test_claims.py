"""Work that is claimed is done by one at a time; a dead holder is passed over."""

import subprocess
import sys
import threading
import time

import pytest

from astroclip_train.training.claims import claimed, live_holder
from astroclip_train.training.interruption import Interrupted


def test_the_second_waits_for_the_first_and_is_told_who_it_is(tmp_path):
    path, order, holders = tmp_path / "work.lease.json", [], []
    begun = threading.Event()

    def first():
        with claimed(path):
            begun.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(10)
    assert live_holder(path)["pid"] > 0
    with claimed(path, holders.append, poll=0.02):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert len(holders) == 1
    assert live_holder(path) is None


def test_a_holder_that_was_killed_is_passed_over(tmp_path):
    path = tmp_path / "work.lease.json"
    code = (
        "import os, signal, sys; from pathlib import Path; from astroclip_train.training.claims import claimed\n"
        "with claimed(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert path.exists()
    assert live_holder(path) is None
    start = time.monotonic()
    with claimed(path):
        assert time.monotonic() - start < 5


def test_waiting_is_progress_and_can_be_given_up(tmp_path, monkeypatch):
    """A rank that waits for hours is not taken for stalled, and a stopped sweep does not wait on."""
    path, told, looks = tmp_path / "work.lease.json", [], []
    monkeypatch.setattr("astroclip_train.training.claims.beat", told.append)

    def stop():
        looks.append(1)
        return len(looks) > 3

    with claimed(path), pytest.raises(Interrupted), claimed(path, poll=0.01, stop=stop):
        raise AssertionError("two hold the lease")
    assert len(told) == 3
    assert live_holder(path) is None
