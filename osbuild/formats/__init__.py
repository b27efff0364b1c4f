"""On-disk formats, read and written without mounting anything."""
