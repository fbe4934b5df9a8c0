"""The README's cluster section, followed word by word."""

import importlib.util
import re
import shlex

import pytest
from slurm_cluster import ROOT, Cluster

from tests.readme_blocks import blocks

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]


def test_the_cluster_section_word_by_word(cluster: Cluster) -> None:
    pytest.importorskip("submitit")
    (block,) = (b for b in blocks("slurm") if b.file.name == "README.md")
    (cluster.folder / "slurm").symlink_to(ROOT / "slurm")
    several_ranks = importlib.util.find_spec("astroclip_train.distributed") is not None
    jobs: list[str] = []
    for line in block.text.splitlines():
        if "train_node" in line and not several_ranks:
            continue
        if line.startswith("astro-model doctor"):
            for job in jobs:
                assert cluster.wait(job, 600)["JobState"] == "COMPLETED", cluster.log(job)
        done = cluster.run("bash", "-e", "-c", line, limit=600)
        found = re.findall(r"^Submitted batch job (\d+)$|^\S+ (\d+)$", done.stdout, flags=re.M)
        if shlex.split(line, comments=True)[0] != "astro-model":
            jobs += [a or b for a, b in found]
    names = {p.parent.name for p in cluster.folder.glob("runs/specclip/*/report.html")}
    assert {"tiny-mock_stars-s0", "tiny-mock_stars-s2"} <= names
    assert len(names) == 4 + several_ranks
