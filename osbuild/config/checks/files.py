"""Checks the files that a profile names: elements, container images and manifests."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.config.scalars import find_nearest
from osbuild.host import paths
from osbuild.shared.errors import Error
from osbuild.shared.files import read_file

MANIFEST = (".yaml", ".yml", ".json")
Where = Callable[..., str]


def check_files(profile: Profile, where: Where, folder: Path) -> None:
    """Raise `Error` for the first file that is missing, or that a build can't use."""
    settings = profile.kubernetes
    references: list[tuple[str, Sequence[str], str, Callable[[Path], bool]]] = [
        ("elements", profile.elements, "a diskimage-builder element", Path.is_dir),
        ("kubernetes.images", settings.images, "an image archive or `demo`", Path.is_file),
        ("kubernetes.manifests", settings.manifests, "a manifest", Path.is_file),
    ]
    for dotted, names, what, test in references:
        for number, name in enumerate(names):
            if dotted == "kubernetes.images" and name == "demo":
                continue
            path = paths.element_path(name, folder) if dotted == "elements" else paths.resolve_named(name, folder)
            if not is_there(path, test):
                suggestion = find_nearest(path.name, set(names_beside(path)) - {path.name})
                hint = (
                    f"did you mean `{suggestion}`?"
                    if suggestion
                    else "paths are relative to the profile that states them"
                )
                message = f"{quote_text(name)} is not {what}"
                raise Error(message, where=where(f"{dotted}[{number}]"), hint=hint)
    for number, name in enumerate(settings.manifests):
        position = where(f"kubernetes.manifests[{number}]")
        if not name.endswith(MANIFEST):
            message = f"found the manifest {quote_text(name)}, expected a name that ends in .yaml, .yml or .json"
            raise Error(message, where=position, hint="rename it: other files are not applied")
        check_manifest(paths.resolve_named(name, folder), name, position)
    # All of them are stored in one folder of the image.
    check_names("kubernetes.manifests", settings.manifests, ("",), where)
    check_names("kubernetes.images", [name for name in settings.images if name != "demo"], (".gz", ".tar"), where)


def check_names(dotted: str, names: Iterable[str], suffixes: Sequence[str], where: Where) -> None:
    """Raise `Error` for two files with the same name without suffix."""
    seen: dict[str, str] = {}
    for name in names:
        plain = Path(name).name
        for suffix in suffixes:
            plain = plain.removesuffix(suffix)
        if plain in seen:
            message = (
                f"found two files called {quote_text(plain)} in `{dotted}`: {quote_text(seen[plain])} and "
                f"{quote_text(name)}"
            )
            raise Error(message, where=where(dotted), hint="rename one of them")
        seen[plain] = name


def check_manifest(path: Path, name: str, position: str) -> None:
    """Raise `Error` for a file without Kubernetes objects."""
    hint = "try it with `kubectl apply --dry-run=client --filename FILE`"
    try:
        documents = [entry for entry in yaml.safe_load_all(read_file(path)) if entry is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{paths.display_path(path)}:{mark.line + 1}:{mark.column + 1}" if mark else position
        raise Error(
            f"the manifest {quote_text(name)} is not valid YAML: {error.problem}", where=at, hint=hint
        ) from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise Error(f"the manifest {quote_text(name)} can't be read as YAML", where=position, hint=hint) from error
    for number, entry in enumerate(documents, 1):
        missing = [key for key in ("apiVersion", "kind") if not isinstance(entry, dict) or not entry.get(key)]
        if missing:
            message = f"found no `{missing[0]}` in document {number} of the manifest {quote_text(name)}"
            raise Error(message, where=position, hint=hint)


def is_there(path: Path, test: Callable[[Path], bool]) -> bool:
    """Return `test(path)`; False for a name that no file system allows."""
    try:
        return test(path) and not paths.made_by_kernel(path)
    except (OSError, ValueError, RuntimeError):
        return False


def names_beside(path: Path) -> list[str]:
    """Return the names in the folder of `path`."""
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []
