"""Inputs of a build: the lock, Debian packages, wheels and downloads."""
