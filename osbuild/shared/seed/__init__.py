"""A seed as host and device read it: files, checksums, YAML, keys that have an effect."""
