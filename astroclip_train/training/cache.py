"""Outputs of a frozen encoder, computed once in a resumable pass and kept as bfloat16.

Training on cached features and training on recomputed ones see the same numbers, because recomputed features are
rounded to bfloat16 as well (`rounded`).
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..distributed import on_main
from ..distributed.collectives import geometry
from ..errors import RunError
from ..files import appear, read_json, sync_folder, write_json
from .progress import Reporter, say

__all__ = ["FeatureCache", "build_cache", "rounded"]

BLOCK = 1024
IN_MEMORY_SHARE = 0.25


def rounded(features: Tensor) -> Tensor:
    """Features as the cache would return them: rounded to bfloat16, in float32."""
    return features.to(torch.bfloat16).to(torch.float32)


@dataclass
class FeatureCache:
    """Features of shape (N, n, d) on disk, looked up by sample number.

    Attributes:
        path: the folder with `features.bin` and `meta.json`.
        shape: (N, n, d).
    """

    path: Path
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        data = np.memmap(self.path / "features.bin", dtype=np.int16, mode="r", shape=self.shape)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        share = IN_MEMORY_SHARE * memory / geometry().local_world_size
        self.data: np.ndarray = np.array(data) if data.nbytes < share else data

    def __call__(self, index: Tensor) -> Tensor:
        """Features of the samples `index` (b,) as float32 of shape (b, n, d), on the device of `index`."""
        rows = torch.from_numpy(self.data[index.cpu().numpy()])
        return rows.view(torch.bfloat16).to(index.device).to(torch.float32)


def build_cache(
    encode: Callable[[np.ndarray], Tensor],
    samples: np.ndarray,
    shape: tuple[int, int, int],
    root: Path,
    key: str,
    owner: str,
    title: str,
    noted: Callable[[], object] | None = None,
) -> FeatureCache:
    """Builds the cache, or goes on with a half-built one, or opens a finished one.

    The work is done in blocks of fixed boundaries, so that an interrupted pass gives the same bits. A pass is written
    under a name of its own and renamed when whole: two jobs that build the same cache do not disturb each other. Of
    several ranks, rank 0 builds and the others wait.

    Arguments:
        encode: sample numbers (b,) -> features (b, n, d).
        samples: the samples that are wanted; the others stay zero.
        shape: (N, n, d) with N all samples of the source.
        root: the cache root.
        key: hash of encoder, data and deterministic transforms.
        owner: names this job's half-built folder.
        title: for the progress bar.
        noted: called whenever progress is safe on disk.

    Raises:
        RunError: the disk does not hold it.
    """
    final = root / "features" / key
    on_main(lambda: _build(encode, samples, shape, final, owner, title, noted))
    appear(final / "meta.json")
    return FeatureCache(final, tuple(read_json(final / "meta.json")["shape"]))


def _build(
    encode: Callable[[np.ndarray], Tensor],
    samples: np.ndarray,
    shape: tuple[int, int, int],
    final: Path,
    owner: str,
    title: str,
    noted: Callable[[], object] | None,
) -> None:
    if (final / "meta.json").exists():
        return
    key = final.name
    partial = final.with_name(f"{key}.partial-{owner}")
    partial.mkdir(parents=True, exist_ok=True)
    data = _open(partial, shape, title)
    done = read_json(partial / "progress.json")["blocks"] if (partial / "progress.json").exists() else 0
    blocks = [samples[i : i + BLOCK] for i in range(0, len(samples), BLOCK)]
    with Reporter.shown(f"{title} features", len(samples), done * BLOCK) as reporter:
        for number in range(done, len(blocks)):
            features = encode(blocks[number]).to(torch.bfloat16).cpu()
            data[blocks[number]] = features.view(torch.int16).numpy()
            if number % 8 == 7 or number == len(blocks) - 1:
                data.flush()
                write_json(partial / "progress.json", {"blocks": number + 1})
                if noted:
                    noted()
            reporter.update(min(len(samples), (number + 1) * BLOCK))
    del data
    write_json(partial / "meta.json", {"shape": list(shape), "dtype": "bfloat16", "title": title})
    try:
        os.rename(partial, final)
    except OSError:  # another job finished the same cache first
        shutil.rmtree(partial)
    sync_folder(final.parent)


def _open(partial: Path, shape: tuple[int, int, int], title: str) -> np.memmap:
    size = 2 * int(np.prod(shape))
    path = partial / "features.bin"
    if path.exists() and path.stat().st_size == size:
        return np.memmap(path, dtype=np.int16, mode="r+", shape=shape)
    (partial / "progress.json").unlink(missing_ok=True)
    free = shutil.disk_usage(partial).free
    say(f"{title}: feature cache of {size / 1e9:.2f} GB in {partial.parent}")
    if size > 0.95 * free:
        raise RunError(
            f"the feature cache of {title} needs {size / 1e9:.1f} GB but {partial.parent} has {free / 1e9:.1f} GB "
            "free: set data.cache_root to a larger disk, or stages.align.cache=false."
        )
    return np.memmap(path, dtype=np.int16, mode="w+", shape=shape)
