"""Console commands; nothing heavy is imported before work starts."""
