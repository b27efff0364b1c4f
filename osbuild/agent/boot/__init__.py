"""Access to the boot loader from the running system: boot entries, tries, and the switch between slots."""
