"""Boot loaders as the device sees them: boot entries, tries, and the switch between slots."""
