"""Update bundles: a build as one signed file that a device installs into its other slot."""
