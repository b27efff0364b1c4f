"""What no schema can say: values of a profile that are well formed but wrong, alone or together."""

from collections.abc import Callable
from pathlib import Path

from osbuild import overlay, paths
from osbuild.errors import Error
from osbuild.profile import accounts, boot, cluster, inputs, network, releases, zones
from osbuild.profile.document import quoted
from osbuild.profile.hosts import host_problem, url_problem
from osbuild.profile.keys import keys, size_text
from osbuild.profile.model import Profile, Size
from osbuild.profile.scalars import nearest

LARGEST = Size(2 * 2**40)  # bytes of a partition: an image is one file, and ext4 has files of at most 16 TiB
Where = Callable[..., str]


def check(profile: Profile, where: Where, folder: Path) -> None:
    """Raise `Error` for the first thing that is wrong.

    `where(*keys)` gives the position of the dotted key among `keys` that was stated last; `folder` is what the
    profile's paths are relative to.
    """
    _sizes(profile, where)
    boot.check(profile, where)
    _overlays(profile, where, folder)
    inputs.check(profile, where, folder)
    accounts.check(profile, [paths.overlay(name, folder) for name in profile.overlays], where)
    network.check(profile, where)
    zones.check(profile.time.zone, profile.packages, where("time.zone"))
    _servers(profile, where)
    if profile.hostname == "localhost":
        message = "found the host name `localhost`, which systemd takes for no name, and which is every node's own"
        raise Error(message, where=where("hostname"), hint="write another name, such as `edge-7`")
    _kubernetes(profile, where)
    cluster.check(profile, where)


def _sizes(profile: Profile, where: Where) -> None:
    for name in ("disk", "update"):
        block = getattr(profile, name)
        for key in keys(type(block)).values():
            least, value = key.limits.get("minimum", 0), getattr(block, key.name)
            if isinstance(value, Size) and value > LARGEST:
                dotted, text = f"{name}.{key.name}", size_text(LARGEST)
                message = f"found {size_text(value)} for `{dotted}`, expected at most {text}"
                raise Error(message, where=where(dotted), hint=f"write `{text}` or less")
            if isinstance(value, Size) and value < least:
                dotted, text = f"{name}.{key.name}", size_text(least)
                message = f"found {size_text(value)} for `{dotted}`, expected at least {text}"
                raise Error(message, where=where(dotted), hint=f"write `{text}` or more")


def _overlays(profile: Profile, where: Where, folder: Path) -> None:
    for number, name in enumerate(profile.overlays):
        path = paths.overlay(name, folder)
        if not inputs.is_there(path, Path.is_dir):
            ours = paths.overlays()
            shipped = sorted(entry.name for entry in ours.glob("*/"))
            near = nearest(name, shipped)
            hint = f"did you mean `{near}`?" if near else f"write a folder, or one of: {', '.join(shipped)}"
            message = f"found no overlay {quoted(name)}, expected a folder, here or in {paths.display(ours)}"
            raise Error(message, where=where(f"overlays[{number}]"), hint=hint)
        overlay.check(path, largest=profile.disk.slot)
    if profile.kubernetes.role != "none" and "kubernetes" not in [Path(name).name for name in profile.overlays]:
        message = f"found the role {profile.kubernetes.role}, but no overlay `kubernetes`, which runs it"
        hint = "write `overlays: [base, kubernetes]`"
        raise Error(message, where=where("kubernetes.role", "overlays"), hint=hint)


def _servers(profile: Profile, where: Where) -> None:
    for number, name in enumerate(profile.time.servers):
        if reason := host_problem(name):
            message = f"found the NTP server {quoted(name)}, expected a host name or an IP address: {reason}"
            raise Error(message, where=where(f"time.servers[{number}]"), hint="write `ntp.example` or `192.0.2.1`")
    if profile.agent.server is not None and (reason := url_problem(profile.agent.server)):
        message = f"found the URL {quoted(profile.agent.server)}, expected that of the update server: {reason}"
        raise Error(message, where=where("agent.server"), hint="write it like `https://updates.example.com`")


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
    releases.check(block, where)
