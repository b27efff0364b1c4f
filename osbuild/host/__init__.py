"""Used by every host package: log, subprocesses, paths, output files, the cache and HTTP."""
