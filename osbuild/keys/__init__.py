"""The keys that sign bundles, and the keyring with which devices check them."""
