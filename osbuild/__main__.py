"""`python -m osbuild`."""

from osbuild.cli import main

main()
