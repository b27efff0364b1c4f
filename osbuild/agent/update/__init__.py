"""Updates, from a bundle to the verdict on the slot that it was written to.

There is at most one pending update. Its stage is stored in pending.json before each step, so that after a power cut the
next boot knows where the update stopped. The steps: RAUC writes the other slot (`writing`, then `installed`), the node
is drained, the boot loader is switched (`switched`), and the device reboots. Then `edge-agent update boot` and
`edge-agent update commit` determine the result.
"""
