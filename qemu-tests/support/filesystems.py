"""Checks the file systems of a replayed disk with their own tools from a tools tree, without lasting changes."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.host.run import CommandError
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree

PACKAGES = ("cryptsetup-bin", "dosfstools", "e2fsprogs")
# Messages of fsck.fat(8) about faults that do not affect files: outdated copies and sums, unused clusters, remains of
# removed names.
HARMLESS = re.compile(
    r"fsck\.fat |There (are|is) differences? between boot sector and its backup|This is mostly harmless"
    r"|  \d+:\S+|  Not automatically fixing|Dirty bit is set|FATs differ but appear to be intact|Reclaimed \d+ unused"
    r"|Free cluster summary (wrong|uninitialized)|Orphaned long file name part|Leaving filesystem unchanged"
    r"|  ?(Auto|Using first FAT|Automatically)|.*: \d+ files, \d+/\d+ clusters$"
)
# The path of a damaged file; the description of the damage follows, indented.
DAMAGED_PATH = re.compile(r"/\S")


@dataclass(frozen=True)
class FatCheck:
    """The result of fsck.fat: `files` are paths of damaged files, `problems` all damage that is not of one file."""

    files: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class DataCheck:
    """The result of e2fsck after it has replayed the journal; `documents` are the JSON files found then, by path.

    A missing document is None.
    """

    problem: str | None
    recovered: bool
    documents: dict[str, object] = field(default_factory=dict)


def filesystem_tools(cache: Cache | None = None) -> ToolsTree:
    """Return a tools tree with fsck.fat, e2fsck, debugfs, e2undo and veritysetup of Debian."""
    return unlocked_tools_tree(cache or Cache(), "fsck-tools", PACKAGES, "tools that check file systems")


def check_fat(tools: ToolsTree, image: Path) -> FatCheck:
    """Run fsck.fat on the file system in `image`, without changes."""
    try:
        output = tools.run_command(["fsck.fat", "-n", image], [image.parent])
    except CommandError as error:
        if error.returncode != 1:  # fsck.fat(8): 1 means inconsistencies, recoverable or not
            return FatCheck((), (error.output.strip(),))
        output = error.output
    return parse_fat_output(output)


def parse_fat_output(output: str) -> FatCheck:
    """Parse the output of fsck.fat."""
    files, problems, in_damaged_file = list[str](), list[str](), False
    for line in output.splitlines():
        if HARMLESS.match(line) or not line.strip():
            in_damaged_file = False
        elif DAMAGED_PATH.match(line):
            files.append(line.removesuffix(" and").rstrip())
            in_damaged_file = True
        elif not (in_damaged_file and line.startswith(" ")):
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

    As at boot (mount-state), e2fsck may make repairs that need no confirmation, and may use a copy of the superblock if
    the power cut has torn the first one. Other damage is a problem, and so is a document that is not JSON.
    """
    undo = image.with_suffix(".undo")
    output = tools.run_command(["sh", "-c", SCRIPT, "sh", image, undo, *documents], [image.parent])
    *sections, last_section = re.split(r"^== ", output, flags=re.MULTILINE)[1:]
    first, _, messages = last_section.partition("\n")
    status = int(first.removeprefix("status "))
    contents: dict[str, object] = {}
    problem = None if status in (0, 1) else f"e2fsck ended with status {status}: {messages.strip()}"
    for section in sections:
        name, _, text = section.partition("\n")
        contents[name] = None
        if text.strip():
            try:
                contents[name] = json.loads(text)
            except ValueError:
                problem = problem or f"{name} is torn: {text[:200]!r}"
    return DataCheck(problem, "recovering journal" in messages, contents)


def verify_root(tools: ToolsTree, root: Path, tree: Path, root_hash: str) -> None:
    """Let veritysetup read all of a root. Raises `CommandError` if a block does not match the hash tree."""
    tools.run_command(["veritysetup", "verify", root, tree, root_hash], [root.parent, tree.parent])
