"""A run directory made of small simulated arrays, as the stages would leave it."""

import json
from pathlib import Path

import numpy as np

LABELS = ("teff", "logg", "feh", "alpha_fe", "rv", "ebv")
UNITS = ("K", "dex", "dex", "dex", "km/s", "mag")
MEANS = np.array([5400.0, 3.6, -0.5, 0.12, 0.0, 0.08])
WIDTHS = np.array([700.0, 0.9, 0.5, 0.12, 40.0, 0.06])
BOUNDS = {
    "lrs": np.array([16.0, 0.08, 0.027, 0.05, 1.0, 5.0]),
    "xp": np.array([46.0, 0.9, 0.16, 0.7, 300.0, 0.015]),
}
HEADS = {"cnn": (("raw",), 1.3), "mlp": (("raw", "single", "aligned"), 1.8), "flow": (("aligned",), 1.7),
         "linear": (("raw", "single", "aligned"), 2.6), "finetune": (("single",), 1.5)}  # fmt: skip
CONFIG = """scale: demo
variant: clip_pr
run: {name: null, seed: 0, root: runs}
labels: {names: [teff, logg, feh, alpha_fe, rv, ebv], n: 4000}
dataset:
  _target_: astroclip_train.data.mock.MockStars
  n: 20000
stages:
  lrs: {_stage_: pretrain, modality: lrs}
  align: {_stage_: align}
"""


def save(path: Path, **arrays: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def make_run(path: Path, n: int = 1200, gallery: int = 300, seed: int = 0, parts: str = "all") -> Path:
    """Writes a run directory; parts="align" leaves the heads out, parts="empty" leaves everything out."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(CONFIG)
    (path / "overrides.txt").write_text("+experiment=specclip\nvariant=clip_pr\n")
    (path / "environment.json").write_text(
        json.dumps({"python": "3.11.9", "torch": "2.13.0", "cpu": "2 cores"})
    )
    if parts == "empty":
        return path
    truth = (MEANS + WIDTHS * rng.standard_normal((n, 6))).astype(np.float32)
    snr = np.exp(rng.normal(np.log(60), 0.7, n))
    samples = np.sort(rng.choice(5 * n, n, replace=False))
    if parts == "all":
        _write_heads(path, rng, truth, snr, samples)
        _write_embedding(path, rng, truth[:800], samples[:800])
    _write_alignment(path, rng, truth[:gallery], samples[:gallery])
    _write_curves(path, rng)
    stage = {"seconds": 150.2, "samples": 76800, "steps": 1200, "samples_per_second": 511.3, "data_wait": 0.012,
             "mfu": 0.31, "peak_memory_gb": 0.9}  # fmt: skip
    timing = {"lrs": stage, "xp": {**stage, "seconds": 31.0}, "align": {**stage, "mfu": None}}
    (path / "timing.json").write_text(json.dumps(timing))
    return path


def bounds(modality: str, snr: np.ndarray) -> np.ndarray:
    noise = BOUNDS[modality] * (60 / snr[:, None])
    return 1 / np.sqrt(noise**-2 + WIDTHS**-2)  # with the prior, as the mock's bounds


def _write_heads(
    path: Path, rng: np.random.Generator, truth: np.ndarray, snr: np.ndarray, samples: np.ndarray
) -> None:
    n, k = truth.shape
    for modality in ("lrs", "xp"):
        bound = bounds(modality, snr)
        save(path / "crb" / f"{modality}.npz", labels=np.array(LABELS), sigma=bound, snr=snr)
        for head, (kinds, factor) in HEADS.items():
            for kind in kinds:
                noise = factor * bound * rng.standard_normal((n, k))
                mean = truth + noise
                extra: dict[str, np.ndarray] = {}
                if head == "flow":
                    std = factor * bound
                    z = np.array([-1.96, -0.9945, 0.0, 0.9945, 1.96])
                    extra["std"] = std
                    extra["samples_q"] = mean[..., None] + std[..., None] * z
                    extra["pit"] = np.clip(rng.normal(0.5, 0.29, (n, k)), 0, 1)
                    extra["log_prob"] = -0.5 * np.sum((noise / std) ** 2, 1)
                with_gaps = np.where(rng.uniform(size=truth.shape) < 0.05, np.nan, truth)
                save(
                    path / "predictions" / f"{head}__{modality}.{kind}.npz",
                    labels=np.array(LABELS), label_units=np.array(UNITS), truth=with_gaps,
                    mean=mean.astype(np.float32), snr=snr, crb=bound, sample=samples,
                    object_id=np.array([f"star-{s}" for s in samples]), **extra,
                )  # fmt: skip


def _spectra(rng: np.random.Generator, truth: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    n = len(truth)
    lrs_wave = 10 ** (3.602 + 1e-4 * np.arange(1462))
    lines = rng.uniform(4000, 5590, 40)
    depth = 0.25 + 0.12 * (truth[:, 2:3] - MEANS[2]) / WIDTHS[2]
    lrs = 1 - np.clip(depth, 0.03, 0.8) * np.exp(-0.5 * ((lrs_wave[:, None] - lines) / 2.5) ** 2).max(1)
    xp_wave = 336 + 2.0 * np.arange(343)
    scale = (truth[:, :1] / 5500) ** 4
    planck = (xp_wave / 550) ** -5 / (np.exp(14388 / (xp_wave * 1e-3) / truth[:, :1]) - 1)
    xp = planck / planck[:, [107]] + 0 * scale
    return {
        "lrs": (lrs_wave, (lrs + 0.02 * rng.standard_normal((n, 1462))).astype(np.float32)),
        "xp": (xp_wave, (xp + 0.01 * rng.standard_normal((n, 343))).astype(np.float32)),
    }


def _write_alignment(path: Path, rng: np.random.Generator, truth: np.ndarray, samples: np.ndarray) -> None:
    spectra, n = _spectra(rng, truth), len(truth)
    for name, (wave, flux) in spectra.items():
        unit = "Angstrom" if name == "lrs" else "nm"
        save(path / "spectra" / f"{name}.npz", wave=wave, flux=flux, sample=samples, wave_unit=unit)
    for a, b in (("lrs", "xp"), ("xp", "lrs")):
        score = -np.abs(truth[:, None, 0] + 60 * rng.standard_normal((n, 1)) - truth[None, :, 0]) / 700
        order = np.argsort(-score, axis=1)
        rank = 1 + np.argmax(order == np.arange(n)[:, None], axis=1)
        save(
            path / "retrieval" / f"{a}_to_{b}.npz",
            query_sample=samples, gallery_sample=samples, target=np.arange(n), rank=rank, top=order[:, :10],
            oracle_rank=np.maximum(1, rank // 2), similarity_top=np.sort(score, axis=1)[:, ::-1][:, :10],
        )  # fmt: skip
        wave, flux = spectra[b]
        noise = 0.02 if b == "lrs" else 0.01
        smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(5) / 5, "same"), 1, flux)
        save(
            path / "translation" / f"{a}_to_{b}.npz",
            wave=wave, truth=flux, prediction=smooth, ivar=np.full(flux.shape, noise**-2),
            mask=np.abs(wave - wave.mean()) < 0.48 * np.ptp(wave) * np.ones((n, 1)), sample=samples,
            unit="relative", wave_unit="Angstrom" if b == "lrs" else "nm",
        )  # fmt: skip


def _write_embedding(path: Path, rng: np.random.Generator, truth: np.ndarray, samples: np.ndarray) -> None:
    standard = (truth - MEANS) / WIDTHS
    for name in ("lrs.aligned", "xp.aligned"):
        xy = standard[:, [0, 2]] @ rng.normal(size=(2, 2)) + 0.2 * rng.standard_normal((len(truth), 2))
        columns = {f"label_{label}": truth[:, i] for i, label in enumerate(LABELS)}
        save(
            path / "embedding" / f"{name}.npz",
            xy=xy,
            method="t-SNE of 30 principal components",
            sample=samples,
            **columns,
        )


def _write_curves(path: Path, rng: np.random.Generator) -> None:
    columns = ["loss", "lr", "val_loss", "val_ceiling", "val_mi_bound",
               *(f"probe_{k}_r2_{x}" for k in ("ridge", "knn") for x in LABELS),
               "probe_effective_rank", "pair_alignment", "pair_uniformity", "pair_modality_gap"]  # fmt: skip
    rows = ["stage,step," + ",".join(columns)]
    stages = ("lrs", "xp", "align", "heads/mlp__lrs.aligned", "heads/flow__lrs.aligned")
    for stage in stages:
        for step in range(10, 1210, 10):
            decay = np.exp(-step / 300)
            values = {"loss": 0.2 + decay + 0.03 * rng.standard_normal(), "lr": 1e-3}
            if step % 300 == 0:
                values["val_loss"] = 0.22 + decay
                for j, label in enumerate(LABELS):
                    values[f"probe_ridge_r2_{label}"] = 1 - 0.1 * (j + 1) - 0.5 * decay
                    values[f"probe_knn_r2_{label}"] = 0.9 - 0.12 * (j + 1) - 0.5 * decay
                values["probe_effective_rank"] = 40 - 20 * decay
                if stage == "align":
                    values |= {
                        "pair_alignment": 0.3 + decay,
                        "pair_uniformity": -3 + decay,
                        "pair_modality_gap": decay,
                    }
            if not stage.startswith("heads") or "val_loss" in values:
                rows.append(f"{stage},{step}," + ",".join(str(values.get(c, "")) for c in columns))
    (path / "metrics.csv").write_text("\n".join(rows) + "\n")
