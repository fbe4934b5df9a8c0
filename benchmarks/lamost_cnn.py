"""A small 1-D CNN from scratch on labelled LAMOST spectra, on the folds by star of `+experiment=lamost_parameters`.

    python benchmarks/lamost_cnn.py path/to/lamost_dr10_afg.h5

Every star is in the test fold once. The network sees the spectra as the experiment does: 3972–5740 Å over the same
pseudo-continuum. It trains on all other folds. Intervals are 68 % of bootstrap resamples.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _common import header
from lamost_parameters import interval
from torch import Tensor, nn

from astroclip_train.data.lamost_afg import LamostAFG
from astroclip_train.data.splits import fold_split
from astroclip_train.data.store import Store

LABELS = ("teff", "logg", "feh")
CLIP = (0.0, 2.0)  # of normalised flux: cosmic rays
SHIFT = 2  # pixels of 69 km/s by which training spectra are moved either way


class Network(nn.Module):
    """Spectra (b, l) -> standardised labels and their log widths, each (b, 3); positions are kept up to the end."""

    def __init__(self, length: int, channels: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip((1, *channels), channels, strict=False)):
            kernel = (15, 7, 5, 3)[i]
            conv = nn.Conv1d(before, width, kernel, 4 if i == 0 else 2, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm1d(width), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Conv1d(channels[-1], 16, 1), nn.Flatten())
        features = self.body(torch.zeros(2, 1, length)).shape[1]
        self.head = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(features, 256),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(256, 2 * len(LABELS)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_width = self.head(self.body(x[:, None])).chunk(2, dim=1)
        return mean, log_width.clamp(-4.0, 3.0)


def loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Laplace negative log-likelihood: robust to wrong labels, and surer spectra weigh more."""
    mean, log_width = network(x)
    return ((y - mean).abs() * torch.exp(-log_width) + log_width).mean()


def augmented(x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Spectra (b, l) with up to as much noise again as they have, moved by up to `SHIFT` pixels."""
    b, l = x.shape
    amount = torch.rand(b, 1, generator=generator)
    x = x + amount * sigma * torch.randn(b, l, generator=generator)
    shift = torch.randint(-SHIFT, SHIFT + 1, (b, 1), generator=generator)
    return x.gather(1, (torch.arange(l) + shift).clamp(0, l - 1))


def fit(x: Tensor, sigma: Tensor, y: Tensor, steps: int, batch: int, seed: int) -> nn.Module:
    """The average of the weights of a one-cycle AdamW run."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Network(x.shape[1])
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.2)
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(len(x), generator=generator)])
        rows, queue = queue[:batch], queue[batch:]
        optimizer.zero_grad()
        loss(network, augmented(x[rows], sigma[rows], generator), y[rows]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
    return average.eval()


def predict_fold(store: Store, fold: int, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Test rows of a fold and their predicted labels (n, 3)."""
    test = fold_split(store.object_id, fold, 5) == "test"
    data = store.read("lrs", np.arange(store.n))
    good = data["ivar"] > 0 if data.get("mask") is None else data["mask"] & (data["ivar"] > 0)
    x = torch.tensor(np.where(good, np.clip(np.nan_to_num(data["flux"]), *CLIP), 1.0), dtype=torch.float32)
    ivar = torch.tensor(np.where(good, data["ivar"], np.inf), dtype=torch.float32)
    sigma = ivar.rsqrt().clamp(max=0.5)
    truth = np.stack([store.labels[name] for name in LABELS], axis=1)
    y = np.column_stack([np.log10(truth[:, 0]), truth[:, 1:]])
    centre = np.median(y[~test], axis=0)
    spread = np.median(np.abs(y[~test] - centre), axis=0) / 0.6745
    train = torch.tensor(~test)
    mean, scale = x[train].mean(0), x[train].std(0).mean()
    target = torch.tensor((y - centre) / spread, dtype=torch.float32)
    x, sigma = (x - mean) / scale, sigma / scale
    network = fit(x[train], sigma[train], target[train], options.steps, options.batch, options.seed)
    with torch.no_grad():
        moved = [network(torch.roll(x[~train], s, 1))[0] for s in (-1, 0, 1)]
    answer = torch.stack(moved).mean(0).numpy() * spread + centre
    return np.flatnonzero(test), np.column_stack([10 ** answer[:, 0], answer[:, 1:]])


def report(truth: np.ndarray, mean: np.ndarray, snr: np.ndarray) -> None:
    """Prints biweight scatter with its interval and R², for all spectra and those of S/N > 50."""
    for name, chosen in (("all", np.full(len(snr), True)), ("S/N > 50", snr > 50)):
        words = []
        for i, label in enumerate(LABELS):
            residual, wanted = (mean - truth)[chosen, i], truth[chosen, i]
            sigma, low, high = interval(residual)
            r2 = 1 - np.sum(residual**2) / np.sum((wanted - wanted.mean()) ** 2)
            words.append(f"{label} {sigma:.4g} [{low:.4g}, {high:.4g}] R² {r2:.3f}")
        print(f"{name:9s} n={int(chosen.sum()):5d}  " + "   ".join(words), flush=True)


def main() -> None:
    """Trains one network per fold and prints the scatter of all test stars together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cache", type=Path, default=Path("runs/.cache"))
    options = parser.parse_args()
    header()
    store = Store(LamostAFG(options.path).prepare(options.cache, progress=False))
    rows, means = [], []
    for fold in options.folds:
        start = time.perf_counter()
        found, mean = predict_fold(store, fold, options)
        rows.append(found)
        means.append(mean)
        print(f"fold {fold}: {len(found)} test spectra, {time.perf_counter() - start:.0f} s", flush=True)
    chosen = np.concatenate(rows)
    truth = np.stack([store.labels[name][chosen] for name in LABELS], axis=1)
    report(truth, np.concatenate(means), store.snr("lrs")[chosen])


if __name__ == "__main__":
    main()
