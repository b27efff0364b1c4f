"""The byte ranges of a bundle's parts, which `make bench` counts, for a bundle of the real programs."""

from itertools import pairwise
from pathlib import Path

import pytest
from bench.layout import SIGNATURE, TABLES, TREE, bundle_ranges

from osbuild.bundle import pack, signing, source
from osbuild.host.cache import Cache
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.sandbox.bundle_tools import bundle_tools
from tests.support.builds import hash_tree, make_build, random_blocks


@pytest.mark.parametrize("salt", [b"", b"salt"])
def test_every_byte_of_a_bundle_belongs_to_a_part_and_files_are_at_their_offsets(salt: bytes, tmp_path: Path) -> None:
    cache, root = (
        Cache(),
        random_blocks("root", 300),
    )  # random bytes are stored uncompressed, so that they can be compared
    tree, roothash = hash_tree(root, salt)
    build = make_build(tmp_path / "build", root=root, tree=tree, metadata={"roothash": roothash})
    signer = signing.prepare_signing(
        authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess()), bundle_tools(cache)
    )
    path = pack.make_bundle(source.read_build(build), tmp_path / "f.raucb", signer, cache).path
    data, parts = path.read_bytes(), {part.name: part for part in bundle_ranges(path)}
    assert data[parts["root.img"].begin : parts["root.img"].end] == root
    assert parts["verity.img"].end > parts["verity.img"].begin
    assert ("root.img.block-hash-index" in parts) is bool(salt), "without a salt it is a link, which has no data"
    assert list(parts)[-3:] == [TABLES, TREE, SIGNATURE]
    order = list(parts.values())
    assert all(first.end == second.begin for first, second in pairwise(order))
    assert order[0].begin < 128 and order[-1].end == len(data)
    assert (parts[TREE].end - parts[TREE].begin) % 4096 == 0
