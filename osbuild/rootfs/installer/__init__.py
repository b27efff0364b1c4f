"""What runs in the tools tree to make a root folder out of Debian packages: standard library only, no imports from
the rest of the package."""
