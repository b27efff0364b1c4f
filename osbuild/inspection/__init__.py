"""Inspects images, and compares builds and bundles."""
