"""The mock stars: one model spectrum of each star seen by LAMOST LRS and by Gaia XP, written to a store."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from ...files import write_json
from ...parallel import Beside, single_threaded
from ...randomness import hash64, normal, uniform
from ..grids import LRS_GRID, XP_GRID, Grid
from ..modality import ModalityInfo
from ..splits import split_of
from ..store_writer import StoreWriter
from .labels import LABELS, UNITS, sample_labels
from .lines import LINE_LISTS
from .lrs import LRS
from .strengths import Star, line_strengths
from .xp import XP

__all__ = ["MockStars", "object_ids", "sample_snr", "simulate", "visits"]

VERSION = 1  # of the simulated universe; part of its identity
_BLOCK = 4096  # stars whose atmospheres are solved together
_BOUNDS = 1024  # stars whose bounds are computed together
_CHUNK = 128  # stars whose spectra are computed together, so that they stay in the processor's cache
_VISIT = 1 << 40  # observation number = star + visit·2⁴⁰
SNR_RANGE = {"lrs": (10.0, 300.0), "xp": (15.0, 1000.0)}


def object_ids(seed: int, index: np.ndarray) -> np.ndarray:
    """Names of stars, such as "mock-0-17", (n,)."""
    return np.char.add(f"mock-{seed}-", np.asarray(index).astype(str))


def visits(seed: int, index: Tensor, repeats: float) -> Tensor:
    """Whether LAMOST saw a star twice, bool (b,)."""
    return uniform(seed, 0, index, 1, "mock visits")[:, 0] < repeats


def sample_snr(
    seed: int, index: Tensor, visit: int = 0, median: tuple[float, float] = (55.0, 130.0)
) -> Tensor:
    """S/N per pixel of LRS and per sample of XP, (b, 2), float64.

    Log-normal within `SNR_RANGE`, correlated through the star's brightness; another visit changes LRS only.

    Arguments:
        seed, index: universe and int64 star numbers (b,).
        visit: 0 or 1.
        median: medians of LRS and XP.
    """
    bright = normal(seed, 0, index, 2, "mock brightness")
    weather = normal(seed, visit, index, 1, "mock weather")[:, 0]
    lrs = median[0] * torch.exp(0.55 * bright[:, 0] + 0.50 * weather)
    xp = median[1] * torch.exp(0.60 * bright[:, 0] + 0.25 * bright[:, 1])
    return torch.stack([lrs.clamp(*SNR_RANGE["lrs"]), xp.clamp(*SNR_RANGE["xp"])], dim=1)


@single_threaded()
def simulate(
    seed: int,
    indices: Tensor | np.ndarray,
    *,
    lrs: LRS | None = None,
    xp: XP | None = None,
    visit: int = 0,
    snr_median: tuple[float, float] = (55.0, 130.0),
    modalities: tuple[str, ...] = ("lrs", "xp"),
    dtype: torch.dtype = torch.float32,
    lines: str = "observed",
) -> dict[str, Tensor]:
    """Observes stars: a function of (seed, index, visit) for each of them.

    Arguments:
        seed: the universe.
        indices: star numbers, (n,).
        lrs, xp: the instruments; by default those of the published grids.
        visit: 0, or 1 for the second LAMOST observation (XP is the same).
        snr_median: medians of the S/N of LRS and XP.
        modalities: which surveys to compute.
        dtype: precision of the computation and of the results.
        lines: which line strengths, see `line_list`.

    Returns:
        labels (n, 8) float64, lrs, lrs_ivar (n, l), lrs_snr (n,), xp, xp_ivar (n, 343), xp_snr (n,), xp_coeff,
        xp_coeff_error (n, 110): LRS flux over its continuum, XP flux and coefficients over the flux at 550 nm.
    """
    indices = torch.as_tensor(indices, dtype=torch.int64)
    lrs = (lrs or _instrument("lrs")) if "lrs" in modalities else None
    xp = (xp or _instrument("xp")) if "xp" in modalities else None
    chunks = []
    for block in indices.split(_BLOCK):
        truth = sample_labels(seed, block)
        snr = sample_snr(seed, block, visit, snr_median)
        with torch.no_grad():
            stars = Star.from_labels(truth.to(dtype), lines)
            for start in range(0, len(block), _CHUNK):
                rows = slice(start, start + _CHUNK)
                chunk = _observe(seed, block[rows], visit, stars.rows(rows), snr[rows].to(dtype), lrs, xp)
                chunks.append(chunk | {"labels": truth[rows]})
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


_instruments: dict[str, Any] = {}


def _instrument(name: str) -> Any:
    if name not in _instruments:
        _instruments[name] = LRS() if name == "lrs" else XP()
    return _instruments[name]


def _observe(
    seed: int, index: Tensor, visit: int, star: Star, snr: Tensor, lrs: LRS | None, xp: XP | None
) -> dict[str, Tensor]:
    strengths = line_strengths(star)
    result: dict[str, Tensor] = {}
    if lrs is not None:
        clean = lrs.flux(star.labels, *lrs.shape(lrs.ingredients(star, strengths)))
        flux, ivar = lrs.observe(seed, index + visit * _VISIT, clean, snr[:, 0])
        result |= {"lrs": flux, "lrs_ivar": ivar, "lrs_snr": snr[:, 0]}
    if xp is not None:
        pixels = xp.flux(star.labels, *xp.shape(xp.ingredients(star, strengths)))
        flux, ivar, coeff, error = xp.observe(seed, index, pixels, snr[:, 1])
        result |= {
            "xp": flux,
            "xp_ivar": ivar,
            "xp_snr": snr[:, 1],
            "xp_coeff": coeff,
            "xp_coeff_error": error,
        }
    return result


class MockStars:
    """A universe of stars observed by LAMOST LRS and Gaia XP, stored on first use.

    Arguments:
        n: number of stars.
        seed: the universe; star i is the same for every n.
        repeats: share of stars that LAMOST observed twice (two samples of one object).
        snr_lrs, snr_xp: medians of the signal-to-noise ratios.
        lrs_grid: log10 grid of LRS: a `Grid`, its fields, or null for the published one.
        resolution: λ/FWHM of LRS.
        bounds: Cramér–Rao bounds for "test" stars, for "evaluation" (validation and test), "all" or "none".
        lines: "observed" line strengths follow LAMOST spectra; "laboratory" ones never saw a star, for experiments
            whose test stars are among those spectra.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        n: int = 20000,
        seed: int = 0,
        repeats: float = 0.05,
        snr_lrs: float = 55.0,
        snr_xp: float = 130.0,
        lrs_grid: Grid | Mapping[str, Any] | None = None,
        resolution: float = 1800.0,
        bounds: str = "evaluation",
        lines: str = "observed",
    ) -> None:
        if n < 1 or not 0 <= repeats <= 1 or min(snr_lrs, snr_xp) <= 0:
            raise ConfigError(
                f"mock stars need n ≥ 1, 0 ≤ repeats ≤ 1 and positive S/N, got n={n}, repeats={repeats}, "
                f"snr_lrs={snr_lrs}, snr_xp={snr_xp}."
            )
        if bounds not in ("test", "evaluation", "all", "none"):
            raise ConfigError(f"mock stars: bounds is {bounds!r}, expected test, evaluation, all or none.")
        if lines not in LINE_LISTS:
            raise ConfigError(f"mock stars: lines is {lines!r}, expected {' or '.join(LINE_LISTS)}.")
        if lines != "observed" and bounds != "none":
            raise ConfigError(
                f"mock stars: bounds are those of observed lines, with lines={lines} set bounds=none."
            )
        self.lines = lines
        grid = LRS_GRID if lrs_grid is None else lrs_grid
        self.n, self.seed, self.repeats, self.bounds = int(n), int(seed), float(repeats), bounds
        self.snr_median = (float(snr_lrs), float(snr_xp))
        self.lrs_grid = grid if isinstance(grid, Grid) else Grid(**dict(grid))
        self.resolution = float(resolution)

    def describe(self) -> dict[str, Any]:
        """What the stored universe is a function of."""
        return {
            "dataset": "mock_stars",
            "version": VERSION,
            "n": self.n,
            "seed": self.seed,
            "repeats": self.repeats,
            "snr_median": list(self.snr_median),
            "lrs_grid": self.lrs_grid.to_json(),
            "resolution": self.resolution,
            "bounds": self.bounds,
            **({} if self.lines == "observed" else {"lines": self.lines}),
        }

    def prepare(self, cache_root: Path, progress: bool = True) -> list[Path]:
        """Writes the store unless it is there.

        Returns:
            The path of the one store file.
        """
        key = f"{hash64(*map(str, self.describe().items())) & 0xFFFFFFFFFFFF:012x}"
        path = Path(cache_root) / "mock_stars" / f"stars-{self.n}-{self.seed}-{key}.h5"
        if not path.exists():
            self.write(path, progress)
            write_json(path.with_suffix(".json"), self.describe())
        return [path]

    def write(self, path: Path, progress: bool = True) -> None:
        """Simulates all observations and writes them to a store."""
        lrs, xp = LRS(self.lrs_grid, self.resolution), _instrument("xp")
        star = torch.arange(self.n)
        twice = star[visits(self.seed, star, self.repeats)]
        order = torch.cat([star, twice])
        visit = torch.cat([torch.zeros_like(star), torch.ones_like(twice)])
        names = object_ids(self.seed, order.numpy())
        labels = sample_labels(self.seed, order)
        with (
            single_threaded(),
            StoreWriter(path, created_by="astroclip_train.data.mock.MockStars") as writer,
            Beside() as beside,
            _bar(progress) as advance,
        ):
            rows, bounds = self._start_bounds(beside, names, order, visit, labels, lrs, xp)
            writer.add_modality("lrs", self._lrs_info())
            writer.add_modality("xp", _xp_info())
            for number, indices, surveys in ((0, star, ("lrs", "xp")), (1, twice, ("lrs",))):
                for part in indices.split(16 * _CHUNK) if len(indices) else ():
                    self._append(writer, part, number, surveys, lrs, xp)
                    advance(len(part), len(order))
            obs = np.char.add(np.char.add(names, "-"), visit.numpy().astype(str))
            writer.set_samples(names, obs, {"lrs": np.arange(len(order)), "xp": order.numpy()})
            for i, name in enumerate(LABELS):
                writer.set_label(name, labels[:, i].numpy(), UNITS[name], "simulation")
            for m, sigma in bounds().items():
                for i, name in enumerate(LABELS):
                    values = np.full(len(order), np.nan)
                    values[rows] = sigma[:, i].numpy()
                    writer.set_bound(m, name, values)

    def _append(
        self, writer: StoreWriter, part: Tensor, visit: int, surveys: tuple[str, ...], lrs: LRS, xp: XP
    ) -> None:
        data = simulate(
            self.seed,
            part,
            lrs=lrs,
            xp=xp,
            visit=visit,
            snr_median=self.snr_median,
            modalities=surveys,
            lines=self.lines,
        )
        for m in surveys:
            columns = {"coeff": data["xp_coeff"], "coeff_error": data["xp_coeff_error"]} if m == "xp" else {}
            columns |= {"flux": data[m], "ivar": data[f"{m}_ivar"], "snr": data[f"{m}_snr"]}
            writer.append(m, **{k: v.numpy() for k, v in columns.items()})

    def _start_bounds(
        self,
        beside: Beside,
        names: np.ndarray,
        order: Tensor,
        visit: Tensor,
        labels: Tensor,
        lrs: LRS,
        xp: XP,
    ) -> tuple[np.ndarray, Callable[[], dict[str, Tensor]]]:
        """Rows of the evaluation samples (or all), and a call for their bounds (n, 8), computed meanwhile."""
        from ...evaluation.bounds import crb_covariance

        chosen = {
            "all": ("train", "validation", "test"),
            "evaluation": ("validation", "test"),
            "test": ("test",),
            "none": (),
        }
        rows = np.flatnonzero(np.isin(split_of(names), chosen[self.bounds]))
        if not len(rows):
            return rows, dict
        wanted = torch.as_tensor(rows)
        first, second = (sample_snr(self.seed, order[wanted], v, self.snr_median) for v in (0, 1))
        snr = torch.where(visit[wanted, None] == 0, first, second)
        parts = [
            beside.start(crb_covariance, labels[wanted[block]], snr[block], lrs=lrs, xp=xp)
            for block in torch.arange(len(rows)).split(_BOUNDS)
        ]

        def bounds() -> dict[str, Tensor]:
            found = [part() for part in parts]
            covariance = {m: torch.cat([f[m] for f in found]) for m in found[0]}
            return {m: torch.sqrt(torch.diagonal(c, dim1=1, dim2=2)) for m, c in covariance.items()}

        return rows, bounds

    def _lrs_info(self) -> ModalityInfo:
        return ModalityInfo(
            survey="mock LAMOST LRS",
            grid=self.lrs_grid,
            unit="",
            medium="vacuum",
            frame="heliocentric",
            resolution=f"R={self.resolution:g}",
            normalisation=("continuum_polynomial",),
        )


def _xp_info() -> ModalityInfo:
    return ModalityInfo(
        survey="mock Gaia XP",
        grid=XP_GRID,
        unit="",
        medium="vacuum",
        frame="observed",
        resolution="FWHM=9-27nm",
        normalisation=("flux_550nm",),
    )


class _bar:
    """A progress bar on a terminal: `with _bar(True) as advance: advance(done, total)`."""

    def __init__(self, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("mock stars"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not shown)

    def __enter__(self) -> Callable[[int, int], None]:
        self.progress.start()
        self.task = self.progress.add_task("", total=None)

        def advance(done: int, total: int) -> None:
            self.progress.update(self.task, advance=done, total=total)

        return advance

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
