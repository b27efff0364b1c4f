"""Shared code of the tests that boot: devices under test, versions, faults, power cuts, replays."""
