"""The file systems of a replayed disk, checked by their own tools from the tools tree; nothing stays changed by it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.host.run import CommandError
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree

PACKAGES = ("cryptsetup-bin", "dosfstools", "e2fsprogs")
# What fsck.fat(8) says of things that keep nobody from reading a file: copies and sums that lag behind, clusters that
# belong to nobody, names that were half removed.
HARMLESS = re.compile(
    r"fsck\.fat |There (are|is) differences? between boot sector and its backup|This is mostly harmless"
    r"|  \d+:\S+|  Not automatically fixing|Dirty bit is set|FATs differ but appear to be intact|Reclaimed \d+ unused"
    r"|Free cluster summary (wrong|uninitialized)|Orphaned long file name part|Leaving filesystem unchanged"
    r"|  ?(Auto|Using first FAT|Automatically)|.*: \d+ files, \d+/\d+ clusters$"
)
# The path of a damaged file; what is wrong with it follows, indented.
NAMED = re.compile(r"/\S")


@dataclass(frozen=True)
class FatCheck:
    """What fsck.fat said; `files` are paths of damaged files, `problems` what is wrong beyond single files."""

    files: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class DataCheck:
    """What e2fsck said after it had replayed the journal; `documents` are JSON files found afterwards, by path.

    A document that is not there is None.
    """

    problem: str | None
    recovered: bool
    documents: dict[str, object] = field(default_factory=dict)


def programs(cache: Cache | None = None) -> ToolsTree:
    """fsck.fat, e2fsck, debugfs, e2undo and veritysetup of Debian."""
    return unlocked_tools_tree(cache or Cache(), "fsck-tools", PACKAGES, "tools that check file systems")


def check_fat(tools: ToolsTree, image: Path) -> FatCheck:
    """Run fsck.fat on the file system in `image`, changing nothing."""
    try:
        said = tools.run_command(["fsck.fat", "-n", image], [image.parent])
    except CommandError as error:
        if error.returncode != 1:  # fsck.fat(8): 1 is "recoverable inconsistencies", or some that are not
            return FatCheck((), (error.output.strip(),))
        said = error.output
    return read_fat(said)


def read_fat(said: str) -> FatCheck:
    """Sort what fsck.fat said."""
    files, problems, named = list[str](), list[str](), False
    for line in said.splitlines():
        if HARMLESS.match(line) or not line.strip():
            named = False
        elif NAMED.match(line):
            files.append(line.removesuffix(" and").rstrip())
            named = True
        elif not (named and line.startswith(" ")):
            problems.append(line)
    return FatCheck(tuple(dict.fromkeys(files)), tuple(problems))


SCRIPT = """\
rm -f "$2"
e2fsck -p -f -z "$2" "$1" > "$2.said" 2>&1
status=$?
if grep -q "superblock could not be read" "$2.said"; then # torn: only without -z does e2fsck find the next one itself
    for backup in "-b 32768 -B 4096" "-b 8193 -B 1024"; do
        rm -f "$2"
        status=0
        e2fsck -p -f $backup -z "$2" "$1" > "$2.said" 2>&1 || status=$?
        [ $status -ge 4 ] || break
    done
fi
image=$1 undo=$2
shift 2
for name; do
    echo "== $name"
    debugfs -R "cat \\"$name\\"" "$image" 2> /dev/null
    echo
done
[ ! -e "$undo" ] || e2undo "$undo" "$image" > /dev/null 2>&1 || status=100
echo "== status $status"
cat "$undo.said"
"""


def check_data(tools: ToolsTree, image: Path, documents: Sequence[str] = ()) -> DataCheck:
    """Replay the journal of the ext4 file system in `image`, check all of it, read `documents`, and undo the changes.

    As at boot (mount-state), e2fsck may repair what it does unasked, and take the superblock's copy where the power
    cut has torn the first one. What it would have to ask for is a problem, and so is a document that is no JSON.
    """
    undo = image.with_suffix(".undo")
    said = tools.run_command(["sh", "-c", SCRIPT, "sh", image, undo, *documents], [image.parent])
    *parts, end = re.split(r"^== ", said, flags=re.MULTILINE)[1:]
    first, _, rest = end.partition("\n")
    status = int(first.removeprefix("status "))
    found: dict[str, object] = {}
    problem = None if status in (0, 1) else f"e2fsck ended with status {status}: {rest.strip()}"
    for part in parts:
        name, _, text = part.partition("\n")
        found[name] = None
        if text.strip():
            try:
                found[name] = json.loads(text)
            except ValueError:
                problem = problem or f"{name} is torn: {text[:200]!r}"
    return DataCheck(problem, "recovering journal" in rest, found)


def verify_root(tools: ToolsTree, root: Path, tree: Path, root_hash: str) -> None:
    """Let veritysetup read all of a root. Raises `CommandError` where a block is not what its hash tree says."""
    tools.run_command(["veritysetup", "verify", root, tree, root_hash], [root.parent, tree.parent])
