"""An alignment epoch from cached features against building the cache plus one epoch (`clip`, `scale=paper`).

    python benchmarks/alignment_cache.py [--pairs 2000] [--batch 256]

Published sizes with random weights on mock stars: the time depends on neither.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _common import header, median_of

from astroclip_train.data.mock import MockStars
from astroclip_train.data.source import DataSource
from astroclip_train.data.store import Store
from astroclip_train.encoders import AutoEncoder, MaskedTransformer
from astroclip_train.heads import AttentionHead, MLPBranchHead
from astroclip_train.objectives import Contrastive
from astroclip_train.stages.systems import AlignSystem
from astroclip_train.training.cache import build_cache


def build(source: DataSource, encoders: dict, samples: np.ndarray, root: Path) -> dict:
    """The caches of both encoders."""

    def encode(modality: str):
        def run(few: np.ndarray) -> torch.Tensor:
            with torch.no_grad():
                parts = [torch.as_tensor(source.arrays(modality, s)["flux"]) for s in np.array_split(few, 16)]
                return torch.cat([encoders[modality](p) for p in parts])

        return run

    return {
        m: build_cache(encode(m), samples, (source.total, e.n_tokens, e.width), root, m, "benchmark", m)
        for m, e in encoders.items()
    }


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pairs", type=int, default=2000)
    options.add_argument("--batch", type=int, default=256)
    chosen = options.parse_args()
    header()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stars = MockStars(n=chosen.pairs, repeats=0.0, bounds="none").prepare(root, progress=False)
        source = DataSource(Store(stars))
        samples = np.arange(source.total)
        encoders = {
            "lrs": MaskedTransformer(length=1462, keep_last=False, positions=150).eval(),
            "xp": AutoEncoder(length=343).eval(),
        }
        start = time.perf_counter()
        caches = build(source, encoders, samples, root)
        building = time.perf_counter() - start
        heads = {"lrs": AttentionHead(encoders["lrs"].n_tokens, 768), "xp": MLPBranchHead(1, 768)}
        objective = Contrastive().bind({"lrs": 1462, "xp": 343}, {"lrs": 768, "xp": 768})
        system = AlignSystem(encoders, heads, objective, caches=caches)
        trained = [p for p in system.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05)

        def epoch() -> None:
            for batch in source.loader(
                samples, chosen.batch, seed=0, total_batches=len(samples) // chosen.batch
            ):
                optimizer.zero_grad(set_to_none=True)
                system.loss(batch, epoch=batch["epoch"], stream="benchmark")[0].backward()
                optimizer.step()

        timing = median_of(epoch, n=5)
    print(f"building the cache of {chosen.pairs:,} pairs: {building:.1f} s")
    print(f"one epoch from the cache: {timing}")
    print(f"(building + epoch) / epoch = {(building + timing.median) / timing.median:.1f}")


if __name__ == "__main__":
    main()
