"""What runs before the root file system does: kernel, initrd, and the unified kernel image of each slot."""
