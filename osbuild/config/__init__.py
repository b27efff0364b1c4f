"""Configuration: the tables of keys of profiles and boards, and the YAML reader that they drive."""
