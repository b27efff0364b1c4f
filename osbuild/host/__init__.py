"""What every part of the host's side uses: log, programs, paths, output files, the cache, HTTP."""
