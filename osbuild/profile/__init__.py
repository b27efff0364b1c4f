"""Profiles: what a user says about one kind of node."""
