"""Bundles, distribution sets and rollouts in an Eclipse hawkBit, through its management API."""
