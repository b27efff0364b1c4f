"""The root file system: install Debian packages, copy file trees over them, and prepare the result to be read-only."""
