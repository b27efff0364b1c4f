"""From a root file system to a disk image: erofs, hash tree, update configuration and partitions."""
