"""Bundles for tests: contents by chance, with a hash tree and a signature as RAUC makes them."""

import hashlib
import os
from pathlib import Path

from osbuild.host.run import run_command
from osbuild.keys.key_folder import KeyFolder

BLOCK = 4096


def make_bundle(path: Path, keys: KeyFolder, version: str, blocks: int = 300, compatible: str = "edge-x86_64") -> bytes:
    """Write a bundle (RAUC's manual, "verity Format") that the signer of `keys` has signed, and return its bytes."""
    payload = b"hsqs" + os.urandom(blocks * BLOCK - 4)
    salt = os.urandom(32)
    levels = [payload]
    while len(levels[-1]) > BLOCK or len(levels) == 1:
        data = levels[-1]
        hashes = b"".join(hashlib.sha256(salt + data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK))
        levels.append(hashes.ljust(-(-len(hashes) // BLOCK) * BLOCK, b"\0"))
    tree = b"".join(reversed(levels[1:]))
    manifest = (
        f"[update]\ncompatible={compatible}\nversion={version}\nbuild=b1\n\n[bundle]\nformat=verity\n"
        f"verity-hash={hashlib.sha256(salt + levels[-1]).hexdigest()}\nverity-salt={salt.hex()}\n"
        f"verity-size={len(tree)}\n\n[meta.edge]\nname=edge-server\n"
    )
    text, signature = path.with_suffix(".manifest"), path.with_suffix(".cms")
    text.write_text(manifest)
    signer = keys.find_signer()
    sign: list[str | Path] = ["openssl", "cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-in", text]
    sign += ["-signer", keys.folder / f"{signer.name}.crt", "-inkey", keys.folder / f"{signer.name}.key"]
    run_command([*sign, "-certfile", keys.folder / f"{signer.root}.crt", "-out", signature])
    content = payload + tree + signature.read_bytes()
    content += signature.stat().st_size.to_bytes(8, "big")
    path.write_bytes(content)
    return content
