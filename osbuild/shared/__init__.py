"""What host and device have in common: standard library only, no import from the rest of the project."""
