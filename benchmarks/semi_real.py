"""Real LAMOST spectra with XP spectra made for their labels: trained, then asked about real stars seen by both surveys.

    python benchmarks/semi_real.py --data FOLDER [--root runs/semi_real] [--scale demo]

No public set has LAMOST and XP spectra of the same stars with labels, beyond three stars. The pairs trained on here are
*semi-real*: flux and errors of 2,304 LAMOST DR10 stars; for those whose labels an emulator of XP spectra knows, its
spectrum with noise drawn with the coefficient errors of a real Gaia source. FOLDER holds the files named in `FILES`.
Only the commands of the README are used. Extra words are overrides of the run.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from _common import header

from astroclip_train.data.readers import gaia_xp
from astroclip_train.data.readers.gaia_calibration import calibrate, design_matrix, scale_to_reference

FILES = {
    "lamost": "lamost_afg/lamost_dr10_afg.h5",
    "emulator": "emulators/payne_cool_gaiaxp.npz",
    "errors": "gaia_xp/xp_continuous_combined_chunk0.fits.gz",
    "pairs": "pairs_lamost_xp",
}
# a fifth of the demo's steps for a thirtieth of its spectra, with noise, and real-sized batches
STEPS = {"lrs": 1000, "xp": 500, "align": 400}
SEED = 0


def emulate(file: Path, labels: np.ndarray) -> np.ndarray:
    """Spectra (n, 343) for Teff, log g, [Fe/H]: three layers with leaky rectifiers on labels scaled to ±1/2."""
    net = np.load(file, allow_pickle=False)
    x = (labels - net["x_min"]) / (net["x_max"] - net["x_min"]) - 0.5
    for k in range(3):
        x = x @ net[f"w_array_{k}"].T + net[f"b_array_{k}"]
        if k < 2:
            x = np.where(x > 0, x, 0.01 * x)
    return x


def make_xp(folder: Path, out: Path) -> int:
    """Writes semi-real XP spectra of the stars that the emulator knows, and returns how many there are."""
    with h5py.File(folder / FILES["lamost"], "r") as file:
        labels = file["labels"][:].astype(float)
        place = {k: file[k][:] for k in ("ra", "dec", "obsid")}
    net = np.load(folder / FILES["emulator"], allow_pickle=False)
    known = ((labels >= net["x_min"]) & (labels <= net["x_max"])).all(axis=1)
    flux = emulate(folder / FILES["emulator"], labels[known])
    sources = next(iter(gaia_xp.read(folder / FILES["errors"], chunk=4096)))
    real = calibrate(sources)
    reference, usable = scale_to_reference(real.flux, real.sigma, real.mask)
    usable &= np.isfinite(sources.error).all(axis=1)
    random = np.random.default_rng(SEED)
    drawn = random.choice(np.flatnonzero(usable), size=len(flux))
    pixel = int(np.argmin(np.abs(np.arange(336, 1021, 2) - 550)))
    scale = (flux[:, pixel] / reference[drawn])[:, None]
    errors = sources.error[drawn]
    noise = (errors * random.standard_normal(errors.shape)) @ design_matrix() * scale
    with h5py.File(out, "w") as file:
        file["flux"], file["error"] = flux + noise, real.sigma[drawn] * scale
        file["wave"] = np.arange(336.0, 1021.0, 2.0)
        for key in ("ra", "dec"):
            file[key] = place[key][known]
        file["obs"] = place["obsid"][known]
    return len(flux)


def call(*words: object) -> str:
    """Runs a command, shows it, and returns what it printed."""
    print("$", *words, flush=True)
    module, *rest = map(str, words)
    name = {"astro-train": "train", "astro-data": "data", "astro-model": "model"}[module]
    done = subprocess.run(
        [sys.executable, "-m", f"astroclip_train.cli.{name}", *rest],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def pairs_of(data: Path, root: Path) -> None:
    """Stores of the training pairs and of the three real stars, prepared alike."""
    print(f"{make_xp(data, root / 'xp_made.h5'):,} of 2,304 LAMOST stars are within the emulator's labels")
    alike = ("--continuum", "polynomial", "--grid", "lrs", "--overwrite", "--quiet")
    call("astro-data", "convert", "lamost-afg", data / FILES["lamost"], "--out", root / "lrs.h5", *alike)
    call(
        "astro-data", "convert", "hdf5", root / "xp_made.h5", "--modality", "xp", "--flux", "flux", "--flux-error",
        "error", "--wave", "wave", "--unit", "nm", "--ra", "ra", "--dec", "dec", "--obs-id", "obs", "--frame",
        "observed", "--survey", "Gaia XP", "--normalise", "flux_550nm", "--out", root / "xp.h5", "--overwrite",
        "--quiet",
    )  # fmt: skip
    call("astro-data", "match", root / "lrs.h5", root / "xp.h5", "--out", root / "pairs.h5", "--overwrite")
    real = data / FILES["pairs"]
    call(
        "astro-data",
        "convert",
        "lamost",
        real,
        "--out",
        root / "real_lrs.h5",
        "--catalog",
        real / "pairs.csv",
        *alike,
    )
    xp = real / "xp_coefficients_3stars.fits"
    call("astro-data", "convert", "gaia-xp", xp, "--out", root / "real_xp.h5", "--overwrite", "--quiet")
    call(
        "astro-data",
        "match",
        root / "real_lrs.h5",
        root / "real_xp.h5",
        "--out",
        root / "real.h5",
        "--overwrite",
    )


def ask(run: Path, root: Path) -> None:
    """The real stars: which XP spectrum belongs to which LAMOST spectrum, labels, and χ² of translated spectra."""
    real = root / "real.h5"
    found = root / "neighbours.csv"
    gallery = ("--gallery", real, "--gallery-modality", "xp")
    call("astro-model", "search", run, real, "--modality", "lrs", *gallery, "-k", 3, "--out", found)
    rows = [r for r in csv.DictReader(found.open()) if r["rank"] == "1"]
    right = sum(r["query_object_id"] == r["object_id"] for r in rows)
    print(f"real stars: {right} of {len(rows)} LAMOST spectra find their own star's XP spectrum first, of 3")
    call("astro-model", "predict", run, real, "--modality", "lrs", "--out", root / "labels.csv")
    print((root / "labels.csv").read_text())
    call(
        "astro-model",
        "translate",
        run,
        real,
        "--modality",
        "lrs",
        "--to",
        "xp",
        "--out",
        root / "xp_predicted.fits",
    )


def main() -> None:
    """Prepares, trains, prints the test metrics, then asks about real stars."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--root", type=Path, default=Path("runs/semi_real"))
    options.add_argument("--scale", default="demo")
    chosen, more = options.parse_known_args()
    header()
    chosen.root.mkdir(parents=True, exist_ok=True)
    if not (chosen.root / "real.h5").exists():
        pairs_of(chosen.data, chosen.root)
    steps = [f"stages.{s}.trainer.max_steps={n}" for s, n in STEPS.items()]
    words = [
        "+experiment=specclip",
        f"scale={chosen.scale}",
        "dataset=store",
        "labels.names=[teff,logg,feh]",
        f"dataset.path={chosen.root / 'pairs.h5'}",
    ]
    place = [f"run.root={chosen.root / 'runs'}", "run.name=semi_real"]
    call("astro-train", *words, *place, *(steps if chosen.scale == "demo" else []), *more)
    run = chosen.root / "runs" / "specclip" / "semi_real"
    metrics = json.loads((run / "metrics.json").read_text())
    for way, values in metrics["retrieval"].items():
        print(
            way,
            {
                k: v
                for k, v in values.items()
                if k in ("n", "recall@1", "recall@10", "chance@10", "median_rank")
            },
        )
    for label, heads in metrics["heads"].items():
        for head, inputs in heads.items():
            for name, at in inputs.items():
                print(
                    f"{label:5s} {head:9s} {name:12s}",
                    {k: at["all"].get(k) for k in ("n", "sigma", "bias", "r2")},
                )
    ask(run, chosen.root)


if __name__ == "__main__":
    main()
