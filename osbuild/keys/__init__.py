"""The keys that bundles are signed with, and the keyring that devices check them by."""
