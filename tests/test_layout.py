"""The rules that the tree of files keeps."""

import ast
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

from tests.support.checkout import PROJECT, list_files
from tests.support.order import FIRST

OSBUILD = PROJECT / "osbuild"
# A package may import itself and those before it. docs/architecture.md says what each of them is for.
ORDER = (
    "shared", "agent", "host", "formats", "config", "inputs", "sandbox", "keys", "rootfs", "kubernetes", "boot",
    "image", "seed", "pipeline", "bundle", "inspection", "flash", "fleet", "qemu", "cli",
)  # fmt: skip
# Of the agent, likewise; modules beside these packages may import each other.
AGENT_ORDER = ("boot", "network", "seed", "kubernetes", "cluster", "update", "fleet", "commands")
# What runs on a device, and so has nothing but the standard library.
ON_DEVICE = ("shared", "agent")
# Programs that run alone, where nothing else of this project is.
ALONE = (OSBUILD / "bundle/hook.py", OSBUILD / "qemu/guardian.py")
# PyYAML is in every image: cloud-init depends on it.
OTHER_IMPORTS = {OSBUILD / "shared/pyyaml.py": "yaml"}
LONG, LONGEST = 300, 400  # lines of a module
MOST_PARAMETERS = 5
# The standard library determines the parameters of the first; the others have the options of subprocess.run.
MORE_PARAMETERS = {
    "redirect_request": ("osbuild/agent/http.py", "osbuild/host/http.py"),
    "run_command": ("osbuild/host/run.py", "osbuild/sandbox/tools_tree.py"),
}
# Packages that take long to import, and that a command seldom needs: module of the command -> package.
SELDOM = {"osbuild.cli.seed": "cryptography", "osbuild.cli.build": "elftools"}
# Names that say nothing without their module: import the module, or give the function an object.
BARE_VERBS = frozenset({
    "accept", "add", "append", "apply", "attempt", "begin", "build", "cancel", "change", "check", "choose", "clear",
    "close", "collect", "compare", "convert", "copy", "create", "decode", "delete", "describe", "discard",
    "download", "drop", "encode", "end", "explain", "extract", "fetch", "fill", "find", "finish", "flush", "forget",
    "format", "get", "hash", "init", "inspect", "insert", "install", "join", "keep", "list", "load", "lock", "look",
    "lookup", "make", "mark", "match", "measure", "merge", "mount", "move", "open", "opened", "pack", "parse",
    "patch", "plan", "prepare", "print", "probe", "publish", "put", "raise", "read", "rebuild", "record", "refresh",
    "reject", "release", "remove", "rename", "render", "replace", "report", "reset", "resolve", "restore", "retry",
    "rotate", "run", "save", "scan", "select", "send", "set", "show", "sign", "split", "start", "stat", "stop",
    "store", "strip", "sweep", "switch", "sync", "take", "tell", "test", "touch", "unpack", "update", "upload",
    "validate", "verify", "view", "wait", "walk", "withdraw", "wrap", "write",
})  # fmt: skip


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def checked_modules() -> list[Path]:
    return [*modules(OSBUILD), *modules(PROJECT / "qemu-tests/bench")]


def dotted(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name imported from it or nothing) of every import, those within functions too."""
    pairs: list[tuple[str, str]] = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            pairs += ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            pairs += ((node.module or "", alias.name) for alias in node.names)
    return pairs


def target(module: str, name: str) -> str:
    """The module that an import is of: `from osbuild.host import log` is of osbuild.host.log."""
    inner = PROJECT / f"{module}.{name}".replace(".", "/")
    return f"{module}.{name}" if name and (inner.with_suffix(".py").exists() or inner.is_dir()) else module


@pytest.mark.parametrize("path", modules(OSBUILD), ids=dotted)
def test_a_package_imports_itself_and_those_before_it(path: Path) -> None:
    own = dotted(path).split(".")
    if len(own) < 2 or own[1] in ("__main__", "packaging"):  # `python -m osbuild`, and the build hook of a wheel
        return
    assert own[1] in ORDER, f"{path}: put its package into ORDER"
    if own[1] == "agent" and len(own) > 2 and own[2] in AGENT_ORDER:
        inner = AGENT_ORDER[AGENT_ORDER.index(own[2]) + 1 :]
    else:
        inner = ()
    for module, name in imports(path):
        parts = target(module, name).split(".")
        assert parts[0] not in ("bench", "conftest", "support", "tests"), f"{path} imports {module} of the tests"
        if parts[0] != "osbuild" or len(parts) < 2:
            continue
        assert parts[1] in ORDER[: ORDER.index(own[1]) + 1], f"{path} imports {'.'.join(parts)}, which comes later"
        # What host and device both need is in `shared`.
        assert parts[1] != "agent" or own[1] == "agent", f"{path} imports {'.'.join(parts)}, which is only for devices"
        later = parts[1] == "agent" == own[1] and len(parts) > 2 and parts[2] in inner
        assert not later, f"{path} imports {'.'.join(parts)}, which comes later"


@pytest.mark.parametrize("package", ON_DEVICE)
def test_what_runs_on_the_device_imports_the_standard_library_only(package: str) -> None:
    paths = modules(OSBUILD / package)
    assert paths
    # The agent imports what it shares with the host; nothing else of the project is on a device.
    own_packages = tuple(f"osbuild.{name}" for name in ON_DEVICE[: ON_DEVICE.index(package) + 1])
    for path in paths:
        for module, name in imports(path):
            inside = target(module, name).startswith(tuple(f"{own}." for own in own_packages)) or module in own_packages
            known = module.partition(".")[0] in sys.stdlib_module_names or module == OTHER_IMPORTS.get(path)
            assert inside or known, f"{path} imports {module}"


@pytest.mark.parametrize("path", ALONE, ids=dotted)
def test_a_program_that_runs_alone_imports_the_standard_library_only(path: Path) -> None:
    assert path.exists()
    assert [module for module, _ in imports(path) if module.partition(".")[0] not in sys.stdlib_module_names] == []


def imports_at_start(module: str) -> set[str]:
    """Every module that is imported with `module`, directly or not; imports within functions are left out."""
    pending, seen = [module], set[str]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        path = PROJECT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name.partition(".")[0] != "osbuild" or not path.exists():
            continue
        for node in parse(path).body:
            if isinstance(node, ast.Import):
                pending += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                pending += [target(node.module or "", alias.name) for alias in node.names]
    return seen


@pytest.mark.parametrize(("command", "package"), SELDOM.items())
def test_a_command_starts_without_packages_that_it_seldom_needs(command: str, package: str) -> None:
    started = imports_at_start(command)
    assert "osbuild.shared.errors" in started
    assert not [name for name in started if name.partition(".")[0] == package]


def test_the_installer_runs_without_the_rest_of_the_project() -> None:
    paths = modules(OSBUILD / "rootfs/installer")
    assert paths
    for path in paths:
        for module, _ in imports(path):
            inside = module.startswith("osbuild.rootfs.installer")
            assert inside or module.partition(".")[0] in sys.stdlib_module_names, f"{path} imports {module}"


def test_no_module_is_too_long() -> None:
    lengths = {path.relative_to(PROJECT): path.read_text().count("\n") for path in checked_modules()}
    assert [str(path) for path, count in lengths.items() if count > LONGEST] == []
    for path, count in lengths.items():
        if count > LONG:
            warnings.warn(f"{path} has {count} lines: is it still one noun?", stacklevel=1)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's parameters, that of a method for its own object left out."""
    listed = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one.arg for one in listed if one.arg not in ("self", "cls")]


def test_no_function_has_too_many_parameters() -> None:
    found = {
        f"{path.relative_to(PROJECT)} {node.name}"
        for path in checked_modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(parameters(node)) > MOST_PARAMETERS
    }
    found -= {f"{path} {name}" for name, paths in MORE_PARAMETERS.items() for path in paths}
    assert sorted(found) == [], "what always travels together is one object"


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for folder in (OSBUILD, PROJECT / "qemu-tests"):
        for path in modules(folder):
            for node in parse(path).body:
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name.lstrip("_"), []).append(str(path.relative_to(PROJECT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_bare_verb_is_imported_by_its_name() -> None:
    found = [
        f"{path.relative_to(PROJECT)}: from {module} import {name}"
        for folder in ("osbuild", "tests", "qemu-tests")
        for path in modules(PROJECT / folder)
        for module, name in imports(path)
        if module.partition(".")[0] in ("osbuild", "tests", "support")
        and name in BARE_VERBS
        and target(module, name) == module
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    bare = [str(path) for path in checked_modules() if not ast.get_docstring(parse(path))]
    assert bare == []


def test_the_files_of_tests_that_come_first_exist() -> None:
    assert [name for name in FIRST if not (PROJECT / "tests" / name).is_file()] == []


def test_tests_are_where_the_package_is_that_they_test() -> None:
    known = {*ORDER, "bench", "support", "overlays", "packaging", "qemu_tests"}
    folders = {path.relative_to(PROJECT / "tests").parts[0] for path in (PROJECT / "tests").glob("*/**/test_*.py")}
    assert folders <= known
    alone = {path.name for path in (PROJECT / "tests").glob("test_*.py")}
    assert alone == {"test_docs.py", "test_layout.py", "test_lint.py"}  # these are about the whole tree


@pytest.mark.parametrize(
    "pattern",
    [
        rb"/tmp/(?!\*)[a-z]*bash_jobs",
        rb"(?:^|[\s\"'=:])/work/(?:main|shared)\b",
        rb"/root/\.(?:pyenv|cache|config)\b",
        rb"\b[a-z0-9-]+\.pkg\.dev\b",
        rb"\b10\.255\.\d+\.\d+\b",
    ],
)
def test_no_file_names_the_machine_that_it_was_written_on(pattern: bytes) -> None:
    match = [
        str(path.relative_to(PROJECT))
        for path in list_files()
        if path != Path(__file__) and re.search(pattern, path.read_bytes())
    ]
    assert match == []
