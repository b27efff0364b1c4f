"""From a profile to a build folder: resolves inputs, runs every build step, and writes the build manifest."""
