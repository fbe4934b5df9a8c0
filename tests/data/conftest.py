"""Small stores for the tests of the data room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy_stores import XP, info, spectra

from astroclip_train.data.store import ModalityInfo, StoreWriter


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """Writes a store of LRS and XP; keyword arguments change what is in it."""

    def make(
        name: str = "store.h5",
        n: int = 300,
        *,
        start: int = 0,
        flux: np.ndarray | None = None,
        ivar: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        xp_rows: np.ndarray | None = None,
        object_id: list[str] | None = None,
        split: list[str] | None = None,
        lrs: ModalityInfo | None = None,
        flux_dtype: str = "float32",
    ) -> Path:
        own_flux, own_ivar = spectra(n, seed=start)
        xp_flux = spectra(n, 12, seed=start + 1)[0]
        path = tmp_path / name
        with StoreWriter(path, created_by="test", flux_dtype=flux_dtype) as writer:
            writer.add_modality("lrs", lrs or info())
            writer.add_modality("xp", info(XP, normalisation=("flux_550nm",)))
            rows = writer.append(
                "lrs",
                flux=own_flux if flux is None else flux,
                ivar=own_ivar if ivar is None else ivar,
                mask=mask,
            )
            in_xp = writer.append("xp", flux=xp_flux)
            ids = object_id or [f"star {start + i}" for i in range(n)]
            writer.set_samples(
                ids,
                [f"obs {start + i}" for i in range(n)],
                {"lrs": rows, "xp": in_xp if xp_rows is None else xp_rows},
                split=split,
            )
            teff = np.where(np.arange(n) % 4 == 0, np.nan, 5000 + np.arange(n))
            writer.set_label("teff", teff, "K", "made up")
            writer.set_label("feh", np.linspace(-2, 0, n), "dex", "made up")
            writer.set_bound("lrs", "teff", np.full(n, 30.0))
        return path

    return make
