"""Everything that runs before the root file system: firmware files, kernel, initrd and the slots' boot images."""
