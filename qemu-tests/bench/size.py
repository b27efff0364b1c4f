"""The size of a compressed image with Kubernetes, and its largest parts."""

from pathlib import Path

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.inputs.build_manifest import PACKED_DISK

BASE = "edge-server"
MB = 10**6


def measure(site: BenchSite) -> Measured:
    """Read the sizes from the manifest of the image."""
    return measure_image(site, site.image(BASE), target=280)


def measure_image(site: BenchSite, profile: Path, *, suffix: str = "", target: float | None = None) -> Measured:
    """Read the sizes of the built image of `profile`. `suffix` ends the names of its figures; `target` is in MB."""
    manifest = site.manifest(profile)
    compressed, root = (manifest.files[name].size or 0 for name in (PACKED_DISK, "root.erofs"))
    largest = [
        f"{number:2}. {entry.name} {(entry.size or 0) / MB:.1f} MB" for number, entry in enumerate(manifest.largest, 1)
    ]
    title = "  its root file system (erofs), the main part of an update"
    return Measured(
        [
            Figure(
                f"image_compressed{suffix}", f"{BASE}{suffix}: compressed disk image", compressed / MB, "MB", target
            ),
            Figure(f"image_root{suffix}", title, root / MB, "MB"),
        ],
        "disk.img.zst: the whole disk, zstd; 1 MB is 1,000,000 bytes. The sizes of the parts are "
        "those of their installed files, before compression.",
        {"largest": manifest.to_json()["largest"]},
        ("largest parts, before compression:", *largest),
    )
