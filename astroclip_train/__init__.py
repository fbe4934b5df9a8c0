"""astro-train: config-driven training of astrophysical foundation models."""

__version__ = "0.1.0"
