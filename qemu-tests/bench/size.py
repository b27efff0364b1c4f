"""The size of a compressed image with Kubernetes, and its largest parts."""

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.inputs.build_manifest import PACKED_DISK

BASE = "edge-server"
MB = 10**6


def measure(site: BenchSite) -> Measured:
    """Read the sizes from the manifest of the image."""
    manifest = site.manifest(site.image(BASE))
    compressed, root = (manifest.files[name].size or 0 for name in (PACKED_DISK, "root.erofs"))
    largest = [
        f"{number:2}. {entry.name} {(entry.size or 0) / MB:.1f} MB" for number, entry in enumerate(manifest.largest, 1)
    ]
    return Measured(
        [
            Figure("image_compressed", f"{BASE}: disk image, compressed", compressed / MB, "MB", 280),
            Figure("image_root", "  its root file system (erofs), the main part of an update", root / MB, "MB"),
        ],
        "disk.img.zst: the whole disk, zstd; 1 MB is 1,000,000 bytes. The sizes of the parts are "
        "those of their installed files, before compression.",
        {"largest": manifest.to_json()["largest"]},
        ("largest parts, before compression:", *largest),
    )
