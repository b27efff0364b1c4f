"""Checks a profile for values that are well formed but invalid, or that contradict each other."""

from collections.abc import Callable
from pathlib import Path

from osbuild.config.checks import accounts, files, kernel, kubernetes, network, overlays, time_zone, versions
from osbuild.config.checks.hosts import check_host_name, check_time_server, url_problem
from osbuild.config.document import quote_text
from osbuild.config.key_table import format_size, keys_of
from osbuild.config.metadata import Size
from osbuild.config.profile import Profile
from osbuild.config.scalars import find_nearest
from osbuild.host import paths
from osbuild.shared.device_attributes import MOST_OWN, RESERVED, TAG, DeviceFact
from osbuild.shared.errors import Error

LARGEST = Size(2 * 2**40)  # bytes of a partition: an image is one file, and ext4 has files of at most 16 TiB
FACTS = frozenset(fact.value for fact in DeviceFact)
Where = Callable[..., str]


def check_profile(profile: Profile, where: Where, folder: Path) -> None:
    """Raise `Error` for the first invalid value.

    `where(*keys)` gives the position of the dotted key among `keys` that was stated last; `folder` is what the
    profile's paths are relative to.
    """
    _sizes(profile, where)
    kernel.check_kernel(profile, where)
    _overlays(profile, where, folder)
    files.check_files(profile, where, folder)
    accounts.check_accounts(profile, [paths.overlay_path(name, folder) for name in profile.overlays], where)
    network.check_network(profile, where)
    time_zone.check_zone(profile.time.zone, profile.packages, where("time.zone"))
    _servers(profile, where)
    _attributes(profile, where)
    if profile.hostname is not None:
        check_host_name(profile.hostname, where("hostname"))
    _kubernetes(profile, where)
    kubernetes.check_kubernetes(profile, where)


def _sizes(profile: Profile, where: Where) -> None:
    for name in ("disk", "update"):
        block = getattr(profile, name)
        for key in keys_of(type(block)).values():
            least, value = key.limits.get("minimum", 0), getattr(block, key.name)
            if isinstance(value, Size) and value > LARGEST:
                dotted, text = f"{name}.{key.name}", format_size(LARGEST)
                message = f"found {format_size(value)} for `{dotted}`, expected at most {text}"
                raise Error(message, where=where(dotted), hint=f"write `{text}` or less")
            if isinstance(value, Size) and value < least:
                dotted, text = f"{name}.{key.name}", format_size(least)
                message = f"found {format_size(value)} for `{dotted}`, expected at least {text}"
                raise Error(message, where=where(dotted), hint=f"write `{text}` or more")


def _overlays(profile: Profile, where: Where, folder: Path) -> None:
    for number, name in enumerate(profile.overlays):
        path = paths.overlay_path(name, folder)
        if not files.is_there(path, Path.is_dir):
            shipped_folder = paths.overlays_folder()
            shipped = sorted(entry.name for entry in shipped_folder.glob("*/"))
            suggestion = find_nearest(name, shipped)
            hint = f"did you mean `{suggestion}`?" if suggestion else f"write a folder, or one of: {', '.join(shipped)}"
            displayed = paths.display_path(shipped_folder)
            message = f"found no overlay {quote_text(name)}, expected a folder, here or in {displayed}"
            raise Error(message, where=where(f"overlays[{number}]"), hint=hint)
        if path.resolve() == Path("/"):
            message = f"found the overlay {quote_text(name)}, the root folder of this host"
            raise Error(message, where=where(f"overlays[{number}]"), hint="make a folder with the files for the image")
        try:
            overlays.check_overlay(path, largest=profile.disk.slot)
        except Error as error:
            raise Error(str(error), where=where(f"overlays[{number}]"), hint=error.hint) from error
    if profile.kubernetes.role != "none" and "kubernetes" not in [Path(name).name for name in profile.overlays]:
        message = f"found the role {profile.kubernetes.role}, but no overlay `kubernetes`, which runs it"
        hint = "write `overlays: [base, kubernetes]`"
        raise Error(message, where=where("kubernetes.role", "overlays"), hint=hint)


def _servers(profile: Profile, where: Where) -> None:
    for number, name in enumerate(profile.time.servers):
        check_time_server(name, where(f"time.servers[{number}]"))
    if profile.agent.server is not None and (reason := url_problem(profile.agent.server)):
        message = f"found the URL {quote_text(profile.agent.server)}, expected that of the update server: {reason}"
        raise Error(message, where=where("agent.server"), hint="write it like `https://updates.example.com`")


def _attributes(profile: Profile, where: Where) -> None:
    attributes = profile.agent.attributes
    for name in attributes:
        if name in RESERVED or name.startswith(TAG):
            if name in FACTS:
                hint = f"write `facts: [{name}]`, or choose another name, such as `own_{name}`"
            else:
                hint = f"choose another name, such as `own_{name.removeprefix(TAG)}`"
            message = f"found the name `{name}` in `agent.attributes`, which has a meaning already"
            raise Error(message, where=where(f"agent.attributes.{name}"), hint=hint)
    if len(attributes) > MOST_OWN:
        message = f"found {len(attributes)} values in `agent.attributes`, expected at most {MOST_OWN}"
        raise Error(message, where=where("agent.attributes"), hint="remove those that no rollout selects devices by")


def _kubernetes(profile: Profile, where: Where) -> None:
    settings = profile.kubernetes
    if settings.distribution == "upstream" and settings.if_unavailable is not None:
        message = "found `if_unavailable` with the distribution upstream, which needs nothing instead"
        hint = "remove it; where it is inherited, write `if_unavailable: null`"
        raise Error(message, where=where("kubernetes.distribution", "kubernetes.if_unavailable"), hint=hint)
    release = settings.version is not None and "+k3s" in settings.version
    if settings.version is not None and release != (settings.distribution == "k3s"):
        kind = "a K3s release" if release else "not a K3s release"
        plain = settings.version.partition("+")[0]
        fitting = f"a version such as `{plain}`" if release else f"a release such as `{plain}+k3s1`"
        message = f"found `{settings.version}`, {kind}, with the distribution {settings.distribution}"
        hint = f"write {fitting}, or `version: null` for the newest pinned one"
        raise Error(message, where=where("kubernetes.version", "kubernetes.distribution"), hint=hint)
    versions.check_version(settings, where)
