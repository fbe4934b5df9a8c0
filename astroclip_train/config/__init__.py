"""Configuration: composition, validation, the identity of a run, and objects built from nodes."""
