"""Many observations at once, as readers of whole data sets return them."""

import dataclasses

import numpy as np

__all__ = ["Rows"]


@dataclasses.dataclass
class Rows:
    """Observations of n objects, row by row.

    arrays: for each modality its arrays of n rows: flux (n, l), optionally ivar, mask (True = good), snr
    (n,), coeff, coeff_error, coeff_cov_factor. obs_id (n,) text; source_id (n,) Gaia source ids as text or
    another catalogue's object id, empty where unknown; ra, dec (n,) degrees or NaN; labels (n,) in the units
    of `LABEL_UNITS`; split (n,) published split names or empty.
    """

    arrays: dict[str, dict[str, np.ndarray]]
    obs_id: np.ndarray
    source_id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    split: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.obs_id)

    def take(self, kept: np.ndarray) -> "Rows":
        """The rows that a boolean or index array selects."""
        return Rows(
            {m: {name: values[kept] for name, values in arrays.items()} for m, arrays in self.arrays.items()},
            self.obs_id[kept],
            self.source_id[kept],
            self.ra[kept],
            self.dec[kept],
            {name: values[kept] for name, values in self.labels.items()},
            None if self.split is None else self.split[kept],
        )
