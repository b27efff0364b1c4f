"""Making a bundle: content, squashfs, hash tree and signature, by RAUC; then read back as a device would."""

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

# Small blocks: of a streamed bundle only whole ones can be read, and an adaptive update picks single blocks of 4 KiB.
# That makes the whole 2 to 4 % larger than squashfs's usual 128 KiB do, and a small update many times smaller.
SQUASHFS = "-comp zstd -Xcompression-level 9 -b 4096 -no-fragments -root-mode 0755 -action 'chmod(0755)@true'"
# In the place of the index of the root, which RAUC would put there: the one that the hook makes on the device, in the
# folder in which the bundle is mounted.
INDEX = "root.img.block-hash-index"
MADE_THERE = f" -action 'exclude@name({INDEX})' -p '{INDEX} s 777 0 0 ../{hook.INDEX}'"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was made; `size` in bytes."""

    path: Path
    size: int
    sha256: str
    source: BundleSource
    signer: str


def make_bundle(source: BundleSource, path: Path, signing: Signing, cache: Cache) -> Bundle:
    """Write a signed bundle of `source` to `path`, which appears whole or not at all. Raises `Error`.

    The same build gives the same squashfs. What follows that does differ: RAUC salts its hash tree by chance, and the
    signature has the time at which it was made and, with the curves used here, a random number.
    """
    with log.step(f"bundle of {source.title}"):
        output_path(path)
        check_build(source)
        tools = bundle_tools(cache)
        with cache.scratch("bundles") as scratch:
            inside, made = scratch / "content", scratch / "bundle.raucb"
            inside.mkdir()
            content.write_content(source, inside)
            with log.step("squashfs, hash tree, signature"):
                words = SQUASHFS + (MADE_THERE if source.indexed else "")
                command: list[Argument] = ["rauc", "bundle", f"--mksquashfs-args={words}", inside, made]
                env = {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(scratch)}
                signing.run_rauc(tools, command, scratch, env)
                tools.run_command(["rauc", *trust_arguments(scratch, signing.keys.keyring()), "info", made], [scratch])
            size, digest = made.stat().st_size, file_digest(made)
            publish_files(path.parent, {path.name: made})
    return Bundle(path, size, digest, source, signing.signer.name)
