"""From a profile to a build folder: inputs resolved, every step in its order, the build manifest."""
