"""How fast mock stars are simulated and bounded: `python benchmarks/mock_rate.py` (one thread is one core)."""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _common import header, median_of

from astroclip_train.data.mock import MockStars, sample_labels, sample_snr, simulate
from astroclip_train.evaluation.bounds import crb_covariance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--store", type=int, default=0, help="also write a store of so many stars, with bounds"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    header()
    index = torch.arange(arguments.stars)
    for surveys in (("lrs", "xp"), ("lrs",), ("xp",)):
        timing = median_of(lambda surveys=surveys: simulate(0, index, modalities=surveys))  # type: ignore[misc]
        print(f"simulate {' and '.join(surveys)}: {timing.rate(arguments.stars, 'stars/s')}")
    labels, snr = sample_labels(0, index), sample_snr(0, index)
    timing = median_of(lambda: crb_covariance(labels, snr), n=3)
    print(f"bound of lrs, xp and joint: {timing.rate(arguments.stars, 'stars/s')}")
    if arguments.store:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            MockStars(n=arguments.store).prepare(Path(folder), progress=False)
            print(f"store of {arguments.store} stars with bounds: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
