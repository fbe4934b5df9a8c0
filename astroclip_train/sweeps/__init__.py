"""Searches over configurations: trials are ordinary runs, chosen by a validation metric, kept in an Optuna study."""
