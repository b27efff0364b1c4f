"""The edge agent as one file for the device: a reproducible zipapp (PEP 441) of `osbuild.agent`."""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from osbuild.host.scratch import temporary_folder

# The agent and the code that it shares with the host. A device gets no other code of the project.
PACKAGES = tuple(Path(__file__).parents[1] / name for name in ("agent", "shared"))
SHEBANG = b"#!/usr/bin/python3 -IS\n"  # -I and -S ignore the environment, the current folder and site packages
START = """import sys
from osbuild.shared.interrupts import exit_on_interrupt
exit_on_interrupt()
from osbuild.agent.__main__ import main
sys.exit(main())
"""
DATE = (1980, 1, 1, 0, 0, 0)


def build_zipapp(output: Path, compiler: Callable[[list[str], list[Path]], object] | None = None) -> None:
    """Write the executable zipapp to `output`.

    `compiler` runs a command (arguments, folders that it needs) with the device's version of `python3`. The zipapp then
    contains byte code, so that the device does not compile it at every start; without `compiler` it contains sources.
    """
    members = {"__main__.py": START.encode(), "osbuild/__init__.py": b""}
    with temporary_folder("agent") as folder:
        for package in PACKAGES:
            shutil.copytree(package, folder / "osbuild" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        if compiler is not None:
            arguments = ["python3", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash", "-s"]
            compiler([*arguments, str(folder), str(folder)], [folder])
        suffix = ".py" if compiler is None else ".pyc"
        for path in sorted(folder.rglob(f"*{suffix}")):
            members[path.relative_to(folder).as_posix()] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            member = zipfile.ZipInfo(name, DATE)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            # Stored, because deflate's output depends on the version of zlib, and the image is compressed anyway.
            archive.writestr(member, members[name], zipfile.ZIP_STORED)
    output.write_bytes(SHEBANG + buffer.getvalue())
    output.chmod(0o755)
