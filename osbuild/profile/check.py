"""What no schema can say: values of a profile that are well formed but wrong, alone or together."""

import ipaddress
import zoneinfo
from collections.abc import Callable, Sequence
from pathlib import Path

from osbuild import paths
from osbuild.errors import Error
from osbuild.profile import cluster, ssh
from osbuild.profile.document import quoted
from osbuild.profile.keys import keys, size_text
from osbuild.profile.model import Interface, Profile, Size
from osbuild.profile.scalars import nearest

# Set by the build or the boot flow; a second one would win or lose against it without a word.
RESERVED_ARGUMENTS = ("root=", "roothash=", "rauc.slot=", "systemd.verity")

Where = Callable[..., str]


def check(profile: Profile, where: Where, folder: Path) -> None:
    """Raise `Error` for the first thing that is wrong.

    `where(*keys)` gives the position of the dotted key among `keys` that was stated last; `folder` is what the
    profile's paths are relative to.
    """
    _sizes(profile, where)
    _arguments(profile, where)
    _overlays(profile, where, folder)
    _files(profile, where, folder)
    _users(profile, where)
    _interfaces(profile.network.interfaces, where)
    _zone(profile, where)
    _kubernetes(profile, where)
    cluster.check(profile, where)


def _sizes(profile: Profile, where: Where) -> None:
    for name in ("disk", "update"):
        block = getattr(profile, name)
        for key in keys(type(block)).values():
            least, value = key.limits.get("minimum", 0), getattr(block, key.name)
            if isinstance(value, Size) and value < least:
                dotted, text = f"{name}.{key.name}", size_text(least)
                message = f"found {size_text(value)} for `{dotted}`, expected at least {text}"
                raise Error(message, where=where(dotted), hint=f"write `{text}` or more")


def _arguments(profile: Profile, where: Where) -> None:
    for number, argument in enumerate(profile.kernel.arguments):
        if argument.startswith(RESERVED_ARGUMENTS):
            message = f"found the kernel argument {quoted(argument)}, which the build sets itself"
            raise Error(message, where=where(f"kernel.arguments[{number}]"), hint="remove it")


def _overlays(profile: Profile, where: Where, folder: Path) -> None:
    for number, name in enumerate(profile.overlays):
        path = paths.overlay(name, folder)
        if not _is(path, Path.is_dir):
            shipped = sorted(entry.name for entry in paths.OVERLAYS.glob("*/"))
            near = nearest(name, shipped)
            hint = f"did you mean `{near}`?" if near else f"write a folder, or one of: {', '.join(shipped)}"
            message = f"found no overlay {quoted(name)}, expected a folder, here or in {paths.display(paths.OVERLAYS)}"
            raise Error(message, where=where(f"overlays[{number}]"), hint=hint)
    if profile.kubernetes.role != "none" and "kubernetes" not in [Path(name).name for name in profile.overlays]:
        message = f"found the role {profile.kubernetes.role}, but no overlay `kubernetes`, which runs it"
        hint = "write `overlays: [base, kubernetes]`"
        raise Error(message, where=where("kubernetes.role", "overlays"), hint=hint)


def _files(profile: Profile, where: Where, folder: Path) -> None:
    wanted: list[tuple[str, Sequence[str], str, Callable[[Path], bool]]] = [
        ("elements", profile.elements, "a diskimage-builder element", Path.is_dir),
        ("kubernetes.images", profile.kubernetes.images, "an image archive or `demo`", Path.exists),
        ("kubernetes.manifests", profile.kubernetes.manifests, "a manifest", Path.is_file),
    ]
    for dotted, names, what, test in wanted:
        for number, name in enumerate(names):
            if (dotted == "elements" and "/" not in name) or (dotted == "kubernetes.images" and name == "demo"):
                continue
            path = paths.named(name, folder)
            if not _is(path, test):
                near = nearest(path.name, _siblings(path))
                hint = f"did you mean `{near}`?" if near else "paths are relative to the profile that states them"
                message = f"found nothing at {quoted(name)}, expected {what}"
                raise Error(message, where=where(f"{dotted}[{number}]"), hint=hint)
    for number, name in enumerate(profile.kubernetes.manifests):
        if not name.endswith((".yaml", ".yml", ".json")):
            message = f"found the manifest {quoted(name)}, expected a name that ends in .yaml, .yml or .json"
            raise Error(
                message, where=where(f"kubernetes.manifests[{number}]"), hint="rename it: others are not applied"
            )


def _is(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except (OSError, ValueError, RuntimeError):
        return False


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


def _users(profile: Profile, where: Where) -> None:
    seen: dict[str, int] = {}
    for number, user in enumerate(profile.users):
        if user.name in seen:
            message = f"found two users `{user.name}`"
            hint = f"the other is at {where(f'users[{seen[user.name]}].name')}: keep one of them"
            raise Error(message, where=where(f"users[{number}].name"), hint=hint)
        seen[user.name] = number
        for place, line in enumerate(user.ssh_keys):
            if not line.startswith(("file:", "env:")) and (reason := ssh.problem(line)):
                message = f"found no SSH public key for user `{user.name}`: {reason}"
                hint = "paste the line of the `.pub` file, or write `file:PATH` or `env:NAME`"
                raise Error(message, where=where(f"users[{number}].ssh_keys[{place}]"), hint=hint)


def _interfaces(interfaces: Sequence[Interface], where: Where) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, interface in enumerate(interfaces):
        dotted = f"network.interfaces[{number}]"
        match = ("mac", interface.mac.lower()) if interface.mac else ("name", interface.name)
        if match in seen:
            hint = f"the other is at {where(f'network.interfaces[{seen[match]}]')}: put both into one"
            raise Error(f"found two interfaces with the {match[0]} `{match[1]}`", where=where(dotted), hint=hint)
        seen[match] = number
        own = [_address(text, where(f"{dotted}.addresses[{at}]")) for at, text in enumerate(interface.addresses)]
        for at, text in enumerate(interface.dns):
            _ip(text, "a name server's IP address", where(f"{dotted}.dns[{at}]"))
        if interface.gateway is not None:
            _gateway(interface.gateway, own, where(f"{dotted}.gateway"))


Static = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _address(text: str, where: str) -> Static:
    expected = "expected an interface's address with its prefix length, such as `192.0.2.5/24`"
    try:
        static = ipaddress.ip_interface(text)
    except ValueError as error:
        raise Error(
            f"found {quoted(text)}, {expected}", where=where, hint="check the digits and the part after `/`"
        ) from error
    if "/" not in text or "." in text.partition("/")[2]:
        length = static.network.prefixlen if "/" in text else 24 if static.version == 4 else 64
        raise Error(f"found {quoted(text)}, {expected}", where=where, hint=f"write `{static.ip}/{length}`")
    if static.is_multicast or static.is_unspecified or static.is_loopback:
        raise Error(
            f"found {quoted(text)}, {expected}", where=where, hint="multicast, loopback and zero are no such address"
        )
    wide = static.network.num_addresses > 2
    if wide and static.ip == static.network.network_address:
        hint = f"that is the network itself: write a host in it, such as `{static.ip + 5}/{static.network.prefixlen}`"
        raise Error(f"found {quoted(text)}, {expected}", where=where, hint=hint)
    if wide and static.ip == static.network.broadcast_address and static.version == 4:
        raise Error(f"found {quoted(text)}, {expected}", where=where, hint="that is the network's broadcast address")
    return static


def _ip(text: str, what: str, where: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        hint = "write it without `/` and prefix length" if "/" in text else "write `192.0.2.1`, or `2001:db8::1`"
        raise Error(f"found {quoted(text)}, expected {what}", where=where, hint=hint) from error


def _gateway(text: str, own: Sequence[Static], where: str) -> None:
    gateway = _ip(text, "the gateway's IP address", where)
    same = [static for static in own if static.version == gateway.version]
    if any(static.ip == gateway for static in same):
        hint = "the gateway is another host: ask who runs the network"
        raise Error(f"found the gateway {quoted(text)}, which is the interface's own address", where=where, hint=hint)
    if same and not gateway.is_link_local and not any(gateway in static.network for static in same):
        networks = " or ".join(str(static.network) for static in same)
        message = f"found the gateway {quoted(text)}, expected one in {networks}"
        raise Error(message, where=where, hint="check the prefix length of the address")


def _zone(profile: Profile, where: Where) -> None:
    known = zoneinfo.available_timezones() if profile.time.zone != "UTC" else set()
    if known and profile.time.zone not in known:  # a host without the tz database cannot tell
        near = nearest(profile.time.zone, sorted(known))
        hint = f"did you mean `{near}`?" if near else "write a name such as `Europe/Berlin`"
        message = f"found the time zone {quoted(profile.time.zone)}, which the tz database does not have"
        raise Error(message, where=where("time.zone"), hint=hint)


def _kubernetes(profile: Profile, where: Where) -> None:
    block = profile.kubernetes
    if block.distribution == "upstream" and block.if_unavailable is not None:
        message = "found `if_unavailable` with the distribution upstream, which needs nothing instead"
        hint = "remove it; where it is inherited, write `if_unavailable: null`"
        raise Error(message, where=where("kubernetes.distribution", "kubernetes.if_unavailable"), hint=hint)
    release = block.version is not None and "+k3s" in block.version
    if block.version is not None and release != (block.distribution == "k3s"):
        kind = "a K3s release" if release else "no K3s release"
        plain = block.version.partition("+")[0]
        fitting = f"a version such as `{plain}`" if release else f"a release such as `{plain}+k3s1`"
        message = f"found `{block.version}`, {kind}, with the distribution {block.distribution}"
        hint = f"write {fitting}, or `version: null` for the newest pinned one"
        raise Error(message, where=where("kubernetes.version", "kubernetes.distribution"), hint=hint)
