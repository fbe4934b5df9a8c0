"""Stores of spectra: grids, modalities, splits, quality, and the loader that feeds training."""
