"""Programs that run in the tools tree and install Debian packages into a root folder.

They import the standard library only, and nothing from the rest of the project.
"""
