"""The cache: entries appear whole or not at all, and nothing is deleted across a mount."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.host.cache import Cache, content_key, default_root, disk_usage, entry_digest, file_digest, tree_digest
from osbuild.host.scratch import remove_tree
from osbuild.shared.errors import UsageError

# VFS_CAP_REVISION_2, effective, permitted: cap_net_raw (capabilities(7), "File capabilities").
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(100_000))


def test_an_entry_is_made_once(cache: Cache) -> None:
    makers = []

    def make(path: Path) -> None:
        makers.append(path)
        path.write_text("contents")

    assert cache.get_or_make("kind", "key", make).read_text() == "contents"
    assert cache.get_or_make("kind", "key", make) == cache.root / "kind" / "key"
    assert len(makers) == 1


@pytest.mark.parametrize("reason", [RuntimeError, KeyboardInterrupt])
def test_a_failed_entry_leaves_nothing(reason: type[BaseException], cache: Cache) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise reason

    with pytest.raises(reason):
        cache.get_or_make("kind", "key", fail)
    assert names(cache.folder("kind")) == []
    assert cache.get_or_make("kind", "key", noise).stat().st_size == 100_000


def slow(root: Path, log: Path) -> None:
    def make(path: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.2)
        path.mkdir()

    Cache(root).get_or_make("kind", "key", make)


def test_processes_that_want_the_same_entry_make_it_once(cache: Cache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=slow, args=(cache.root, tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n"


def test_prune_removes_what_was_unused_for_longest(cache: Cache) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        path = cache.folder("kind") / name
        path.write_bytes(os.urandom(100_000))
        os.utime(path, (10**9 - age, 10**9 - age))
    freed = cache.prune(("kind",), limit=250_000)
    assert names(cache.folder("kind")) == ["middle", "new"]
    assert freed >= 100_000


def test_a_signal_while_a_scratch_folder_is_removed_leaves_none_of_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.rmtree

    def interrupted(path: Path) -> None:
        monkeypatch.undo()
        (path / "first").unlink()
        signal.raise_signal(signal.SIGINT)
        real(path)

    with pytest.raises(KeyboardInterrupt), cache.scratch("kind") as folder:
        (folder / "first").touch()
        (folder / "second").touch()
        monkeypatch.setattr(shutil, "rmtree", interrupted)
    assert names(cache.folder("kind")) == []


def test_pruning_removes_what_killed_processes_have_left(cache: Cache) -> None:
    """Also beside an entry that is there: one may be killed between its making and the end of its scratch folder."""
    cache.get_or_make("kind", "key", Path.touch)
    (cache.folder("kind") / ".partial-killed/inner").mkdir(parents=True)
    with cache.scratch("kind") as in_use:
        assert cache.prune(("other",)) == 0
        assert names(cache.folder("kind")) == [in_use.name, "key"]


def test_a_build_in_another_container_keeps_its_scratch_folder(cache: Cache) -> None:
    """Two containers that share a cache don't see each other's processes."""
    program = f"""
import sys
from pathlib import Path
from osbuild.host.cache import Cache
with Cache(Path({str(cache.root)!r})).scratch("kind"):
    print("ready", flush=True)
    sys.stdin.read()
"""
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", program]
    with subprocess.Popen(container, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "ready\n"
        cache.prune(("kind",))
        assert len(names(cache.folder("kind"))) == 1
        other.communicate("")
    assert other.returncode == 0
    assert names(cache.folder("kind")) == []


def test_using_an_entry_keeps_it_from_being_pruned(cache: Cache) -> None:
    for name in ("first", "second"):
        os.utime(cache.get_or_make("kind", name, noise), (1, 1))
    cache.get_or_make("kind", "first", lambda path: None)
    cache.prune(("kind",), limit=150_000)
    assert names(cache.folder("kind")) == ["first"]


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_OSBUILD_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("EDGE_OSBUILD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert default_root() == Path("/var/cache/edge-osbuild")


plain = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(first=plain, second=plain)
def test_keys_are_equal_for_equal_parts_only(first: object, second: object) -> None:
    assert (content_key(first) == content_key(second)) == (first == second)


def test_the_order_in_a_mapping_does_not_change_a_key() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key("ab", "c") != content_key("a", "bc")


@pytest.mark.parametrize(
    "name", ["a:b", "a b", "100%", "new\nline", os.fsdecode(b"\xff"), 'quo"te', "$HOME", "back\\slash"]
)
def test_a_path_that_programs_of_a_build_would_misread_is_wrong_usage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_OSBUILD_CACHE", raising=False)
    for variable in ("XDG_CACHE_HOME", "EDGE_OSBUILD_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / name))
        with pytest.raises(UsageError, match="some build programs cannot handle") as caught:
            Cache()
        assert "EDGE_OSBUILD_CACHE" in str(caught.value.hint)
    monkeypatch.setenv("EDGE_OSBUILD_CACHE", str(tmp_path / "ab,ünï"))
    assert Cache().root == tmp_path / "ab,ünï"


@pytest.mark.parametrize("change", ["content", "mode", "name", "link", "new folder"])
def test_every_change_of_a_tree_changes_its_digest(change: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("text")
    (tree / "link").symlink_to("file")
    before = tree_digest(tree)
    assert tree_digest(tree) == before
    if change == "content":
        (tree / "file").write_text("texts")
    elif change == "mode":
        (tree / "file").chmod(0o755)
    elif change == "name":
        (tree / "file").rename(tree / "file2")
    elif change == "link":
        (tree / "link").unlink()
        (tree / "link").symlink_to("file2")
    else:
        (tree / "folder").mkdir()
    assert tree_digest(tree) != before


def test_names_and_targets_of_links_are_not_confused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a b").symlink_to("c")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/a").symlink_to("b c")
    assert tree_digest(tmp_path / "one") != tree_digest(tmp_path / "two")


def test_a_name_that_is_not_utf8_has_a_digest(tmp_path: Path) -> None:
    before = tree_digest(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).symlink_to(os.fsdecode(b"\xfe"))
    assert tree_digest(tmp_path) != before


def test_byte_code_counts_except_that_of_code_which_runs_here(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.cpython-313.pyc").write_bytes(b"one")
    whole, code = tree_digest(tmp_path), tree_digest(tmp_path, code=True)
    (tmp_path / "__pycache__/a.cpython-313.pyc").write_bytes(b"two")
    assert tree_digest(tmp_path) != whole
    assert tree_digest(tmp_path, code=True) == code


def test_a_digest_of_code_does_not_depend_on_where_it_is_installed(tmp_path: Path) -> None:
    """Below a setgid folder each new folder is setgid too, and some installers make files read-only."""
    (tmp_path / "code").mkdir()
    for name, mode in (("module.py", 0o644), ("hook", 0o755)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    whole, code = tree_digest(tmp_path), tree_digest(tmp_path, code=True)
    assert whole == code
    (tmp_path / "code").chmod(0o2755)
    assert tree_digest(tmp_path, code=True) == code == tree_digest(tmp_path) != entry_digest(tmp_path)
    (tmp_path / "code").chmod(0o755)
    (tmp_path / "module.py").chmod(0o444)
    (tmp_path / "hook").chmod(0o555)
    assert tree_digest(tmp_path, code=True) == code != tree_digest(tmp_path)
    (tmp_path / "hook").chmod(0o644)
    assert tree_digest(tmp_path, code=True) != code


def test_a_digest_does_not_depend_on_the_umask_of_a_checkout(tmp_path: Path) -> None:
    digests = set()
    for mask in (0o000, 0o002, 0o022, 0o077):
        tree = tmp_path / f"{mask:o}"
        (tree / "folder").mkdir(parents=True)
        for name, mode in (("file", 0o666), ("program", 0o777)):
            (tree / "folder" / name).touch()
            (tree / "folder" / name).chmod(mode & ~mask)
        for folder in (tree, tree / "folder"):
            folder.chmod(0o777 & ~mask)
        digests.add(tree_digest(tree))
    assert len(digests) == 1


def test_a_programs_capabilities_count(tmp_path: Path) -> None:
    (tmp_path / "program").touch()
    before = tree_digest(tmp_path)
    os.setxattr(tmp_path / "program", "security.capability", CAP_NET_RAW)
    assert tree_digest(tmp_path) != before


def test_a_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4's example
    assert file_digest(tmp_path / "file") == digest


def test_usage_counts_what_is_allocated(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "full").write_bytes(os.urandom(2**20))
    assert 2**20 <= disk_usage(tmp_path) < 2**22


def test_remove_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(kept)
    remove_tree(folder)
    remove_tree(tmp_path / "absent")
    assert names(tmp_path) == ["kept"]
    assert names(kept) == ["file"]


def test_remove_never_crosses_into_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc is a mount point on every host: seen from /, deleting must stop before it begins."""

    def never(path: Path) -> None:
        raise AssertionError(f"would have deleted {path}")

    monkeypatch.setattr(shutil, "rmtree", never)
    with pytest.raises(OSError, match="is a mount point: not deleting /"):
        remove_tree(Path("/"))


def test_two_may_prune_at_once(cache: Cache) -> None:
    for number in range(40):
        cache.get_or_make("kind", f"{number}", noise)
    with ThreadPoolExecutor(4) as pool:
        freed = sum(pool.map(lambda _: cache.prune(("kind",), limit=0), range(4)))
    assert not list(cache.folder("kind").iterdir())
    assert freed >= 40 * 8192
