"""A real SLURM, where one runs: `slurm/start_test_slurm.sh` starts one on this machine."""

import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import EVERY_STEP, ROOT, TINY, Cluster

STARTER = ROOT / "slurm" / "start_test_slurm.sh"


def _answers() -> bool:
    if shutil.which("slurmctld") is None or shutil.which("sbatch") is None:
        return False
    try:
        done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and "UP" in done.stdout


@pytest.fixture(scope="session")
def slurm_answers() -> None:
    if not _answers():
        pytest.skip("no SLURM answers here: slurm/start_test_slurm.sh starts one (root, Debian or Ubuntu)")
    # A job that an interrupted run of these tests has left holds cores for ever, and jobs that want the whole node wait
    # for it. The script refuses where SLURM is a cluster's, and nothing is touched there.
    done = subprocess.run([STARTER, "--empty"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "belongs to another SLURM" in done.stderr, done.stderr


@pytest.fixture
def cluster(slurm_answers, tmp_path: Path):
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def whole(slurm_answers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the tiny recipe that nobody disturbed, outside SLURM."""
    made = Cluster(tmp_path_factory.mktemp("whole"))
    done = made.run("astro-train", *TINY, *EVERY_STEP, limit=400)
    return made.folder / done.stdout.strip().splitlines()[-1]
