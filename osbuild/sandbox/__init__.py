"""Tools trees: Debian roots in which build steps and QEMU run."""
