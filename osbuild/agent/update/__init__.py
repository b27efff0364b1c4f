"""Updates: from a bundle to the verdict on the slot that it was written to.

One update at a time. What has been done of it is in pending.json, written before each step, so that whoever comes
after a power cut knows where it stopped. In order: RAUC writes the other slot (`writing`, then `installed`), the
cluster is made ready, the boot loader is told (`switched`), and after the reboot `edge-agent update boot` and
`edge-agent update commit` find out what has become of it.
"""
