"""Why a seed is not used."""


class SeedRefused(Exception):
    """A seed that must not be used. The message says what is wrong, with line and column if there are any."""
