"""Configuration: the tables of a profile and a board, and the YAML reader that is driven by them."""
