"""The root file system: Debian packages installed, file trees copied over them, prepared to be read-only."""
