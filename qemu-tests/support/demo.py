"""The container image of tests, for nodes whose image does not have it."""

from pathlib import Path

from osbuild.config.board import Board
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.kubernetes.component import DEMO
from osbuild.kubernetes.image_archive import SmallImage, write_image
from support.nodes import BOOT, Node


def import_demo(node: Node, board: Board, folder: Path) -> None:
    """Hand the image to a node, as an operator without a registry would. `folder` is for its archive."""
    program = upstream_programs.build_small_program("demo", board.architecture, Cache()).read_bytes()
    archive = folder / "demo.tar"
    image = SmallImage(name=DEMO, files={"demo": (program, 0o755)}, entrypoint=["/demo"])
    write_image(archive, image, board.architecture)
    node.guest.put(archive, "/tmp/demo.tar", timeout=BOOT)
    node.run("ctr -n k8s.io images import /tmp/demo.tar")
