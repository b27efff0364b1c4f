"""Seeds, read the same way on host and device: files, checksums, YAML, keys with an effect."""
