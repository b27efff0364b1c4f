"""Rollouts: one bundle for many devices, in groups. A rollout goes on or pauses by what the devices report."""
