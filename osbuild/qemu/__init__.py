"""Virtual machines: starts QEMU, controls its power, console and network, and cleans up."""
