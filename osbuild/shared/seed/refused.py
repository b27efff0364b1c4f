"""The error for a seed that cannot be used."""


class SeedRefused(Exception):
    """A seed must not be used. The message says why, with file, line and column if they are known."""
