"""From a root file system to a disk: the system laid together, its verity image, the slots' boot entries, the disk."""
