"""The edge agent as one file for the device: a zipapp (PEP 441) of `osbuild.agent`, the same bytes every time."""

import io
import zipfile
from pathlib import Path

AGENT = Path(__file__).parent / "agent"
SHEBANG = b"#!/usr/bin/python3 -IS\n"  # neither the environment, the current folder nor site packages count
START = "import sys\nfrom osbuild.agent.__main__ import main\nsys.exit(main())\n"
DATE = (1980, 1, 1, 0, 0, 0)


def build_agent(output: Path) -> None:
    """Write the zipapp, executable, to `output`."""
    members = {"__main__.py": START.encode(), "osbuild/__init__.py": b""}
    for path in sorted(AGENT.rglob("*.py")):
        members[f"osbuild/agent/{path.relative_to(AGENT).as_posix()}"] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            member = zipfile.ZipInfo(name, DATE)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            # Stored: deflate's bytes depend on the zlib at hand, and the image is compressed anyway.
            archive.writestr(member, members[name], zipfile.ZIP_STORED)
    output.write_bytes(SHEBANG + buffer.getvalue())
    output.chmod(0o755)
