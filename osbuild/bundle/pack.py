"""Makes a bundle with RAUC (squashfs, hash tree, signature), and verifies it like a device."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.bundle import content, hook
from osbuild.bundle.signing import Signing, trust_arguments
from osbuild.bundle.source import BundleSource, check_build
from osbuild.host import log
from osbuild.host.cache import Cache, file_digest
from osbuild.host.output import output_path, publish_files
from osbuild.host.run import Argument
from osbuild.sandbox.bundle_tools import bundle_tools

# Small blocks, because an adaptive update reads single blocks of 4 KiB and can stream only whole squashfs blocks. The
# bundle is 2 to 4 % larger than with squashfs's default of 128 KiB, but a small update is many times smaller.
SQUASHFS = "-comp zstd -Xcompression-level 9 -b 4096 -no-fragments -root-mode 0755 -action 'chmod(0755)@true'"
# A link replaces RAUC's adaptive index of the root. It points to the index that the hook makes on the device, beside
# the mount point of the bundle.
INDEX = "root.img.block-hash-index"
LINK_INDEX = f" -action 'exclude@name({INDEX})' -p '{INDEX} s 777 0 0 ../{hook.INDEX}'"


@dataclass(frozen=True)
class Bundle:
    """A finished bundle; `size` in bytes, `sha256` in hex."""

    path: Path
    size: int
    sha256: str
    source: BundleSource
    signer: str


def make_bundle(source: BundleSource, path: Path, signing: Signing, cache: Cache) -> Bundle:
    """Write a signed bundle of `source` to `path` atomically. Raises `Error`."""
    # The squashfs is reproducible, but the bundle is not: RAUC uses a random salt for its hash tree, and the signature
    # contains a time and a random number.
    with log.step(f"bundle of {source.title}"):
        output_path(path)
        check_build(source)
        tools = bundle_tools(cache)
        with cache.scratch("bundles") as scratch:
            contents, bundle = scratch / "content", scratch / "bundle.raucb"
            contents.mkdir()
            content.write_content(source, contents)
            with log.step("squashfs, hash tree, signature"):
                squashfs = SQUASHFS + (LINK_INDEX if source.indexed else "")
                command: list[Argument] = ["rauc", "bundle", f"--mksquashfs-args={squashfs}", contents, bundle]
                env = {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(scratch)}
                signing.run_rauc(tools, command, scratch, env)
                tools.run_command(
                    ["rauc", *trust_arguments(scratch, signing.keys.keyring()), "info", bundle], [scratch]
                )
            size, digest = bundle.stat().st_size, file_digest(bundle)
            publish_files(path.parent, {path.name: bundle})
    return Bundle(path, size, digest, source, signing.signer.name)
