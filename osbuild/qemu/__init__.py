"""Virtual machines: QEMU started, watched, typed at, cut off and cleaned up after."""
