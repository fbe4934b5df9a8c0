"""What a model reads: samples of a store, each spectrum once where it is searched for."""

import numpy as np

from astroclip_train.data.grids import Grid
from astroclip_train.data.modality import ModalityInfo
from astroclip_train.data.store import Store, StoreWriter
from astroclip_train.hub.inputs import Inputs


def test_a_gallery_has_every_spectrum_once(tmp_path):
    """Five samples of two Gaia spectra: the first sample of each stays."""
    grid = Grid("linear", 400.0, 10.0, 12, "nm")
    info = ModalityInfo("test", grid, "", "vacuum", "observed", "R=50", ("flux_550nm",))
    flux = np.random.default_rng(0).normal(5, 1, (2, 12)).astype(np.float32)
    with StoreWriter(tmp_path / "pairs.h5", created_by="test") as writer:
        writer.add_modality("xp", info)
        rows = writer.append("xp", flux=flux)
        order = [1, 0, 0, 1, 1]
        writer.set_samples([f"star {i}" for i in order], [f"obs {k}" for k in range(5)], {"xp": rows[order]})
    gallery = Inputs(Store(tmp_path / "pairs.h5"), ("xp",), np.arange(5)).distinct()
    assert gallery.obs_id.tolist() == ["obs 0", "obs 1"]
    assert gallery.object_id.tolist() == ["star 1", "star 0"]
