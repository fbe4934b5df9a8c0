"""Work that is claimed is done by one at a time; a dead holder is passed over."""

import subprocess
import sys
import threading
import time

from astroclip_train.training.claims import claimed, live_holder


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
