"""Validation of a composed configuration before any data is opened."""

from omegaconf import DictConfig

__all__ = ["validate", "validate_structure"]


def validate_structure(cfg: DictConfig) -> None:
    """Keys and types."""


def validate(cfg: DictConfig) -> None:
    """Everything that can be known before data is opened."""
    validate_structure(cfg)
