"""The code of this program that decides what an image contains, apart from its base layer."""

from pathlib import Path

from osbuild.host.cache import tree_digest

IMAGE_CODE = ("agent", "boot", "formats/mbr.py", "formats/uimage.py", "rootfs/agent_zipapp.py", "shared")


def image_code_key() -> str:
    """A hash of that code."""
    return tree_digest(*(Path(__file__).parents[1] / name for name in IMAGE_CODE), code=True)
