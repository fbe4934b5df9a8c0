"""A rank that nobody watches tells where it stood still before it ends itself."""

import subprocess
import sys

CODE = """
import sys, time
from pathlib import Path
from astroclip_train.distributed.heartbeat import beat

beat.start(2.0, Path(sys.argv[1]), "rank 3")
beat("step 12")
{then}
"""


def run(tmp_path, then: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CODE.format(then=then), str(tmp_path / "logs" / "rank-3.stack")]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_a_stalled_rank_says_so_and_leaves_its_stack(tmp_path):
    done = run(tmp_path, "time.sleep(30)")
    assert done.returncode == 1
    assert "rank 3 on" in done.stderr
    assert "has made no progress for 2 s after" in done.stderr
    assert "rank-3.stack has the calls it stands in." in done.stderr
    assert (
        "time.sleep" in (tmp_path / "logs" / "rank-3.stack").read_text()
        or "File" in (tmp_path / "logs" / "rank-3.stack").read_text()
    )


def test_a_rank_that_works_or_waits_or_has_ended_says_nothing(tmp_path):
    works = "for i in range(8):\n    time.sleep(0.6)\n    beat(str(i))"
    waits = "with beat.waiting():\n    time.sleep(3)\nbeat.stop()\ntime.sleep(3)"
    for then in (f"{works}\nbeat.stop()", waits):
        done = run(tmp_path, then)
        assert (done.returncode, done.stderr) == (0, "")
