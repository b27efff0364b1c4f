"""The kernel's last warnings of an earlier boot, from the journal on the data partition."""

import re

from osbuild.agent.command import CommandNotFinished, run_command

MOST_LINES, LONGEST_LINE = 5, 200  # characters
TIMEOUT = 60.0  # seconds
BOOT_ID = re.compile(r"[0-9a-f]{32}")


def last_warnings(boot: str) -> list[str]:
    """Return the kernel's last messages of the level warning or worse in the boot with this id; none if unknown."""
    identity = boot.replace("-", "")  # sd-id128(3)
    if not BOOT_ID.fullmatch(identity):
        return []
    command = ["journalctl", "--dmesg", f"--boot={identity}", "--priority=warning", f"--lines={MOST_LINES}",
               "--output=cat", "--no-pager", "--quiet"]  # fmt: skip
    try:
        result = run_command(command, timeout=TIMEOUT, errors="replace")
    except CommandNotFinished:
        return []
    lines = [line.strip()[:LONGEST_LINE] for line in result.stdout.splitlines() if line.strip()]
    return lines[-MOST_LINES:] if result.returncode == 0 else []
