"""What the tests that boot share: devices under test, versions, faults, power cuts, replays."""
