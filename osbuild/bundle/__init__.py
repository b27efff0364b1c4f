"""Update bundles: a build as one signed file that a device installs into the slot that it does not run from."""
