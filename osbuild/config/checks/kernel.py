"""Checks kernel arguments and sysctls of a profile, as the kernel and systemd parse them."""

import re
from collections.abc import Callable, Iterator, Sequence

from osbuild.config.document import quote_text
from osbuild.config.machine import KernelSettings
from osbuild.config.profile import Profile
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error

NO_REBOOT = "with which a node would not reboot after a panic, and so not fall back"
# Effect -> patterns of the arguments that have it. `_` also matches `-`: the kernel and systemd treat both alike. An
# argument may begin with `rd.`, which limits it to the initrd.
RESERVED = {
    "which the build sets itself": (
        r"edge\.", r"rauc\.", "root=", "roothash=", "roothashsig=", "rootflags=", "rootfstype=", "init=", "rdinit=",
        "initrd=", "usrhash=", r"mount\.usr", r"systemd\.(verity|volatile|gpt_auto|image_policy)", "verity",
        "(ro|rw|gpt|noinitrd|__|_)$",
    ),
    "with which a node would start without its services": (r"systemd\.unit=", "(emergency|rescue|single|s|1|_b)$"),
    "with which no boot would be checked": (r"systemd\.mask=(edge_|boot_complete\.)",),
    "with which a node would wait for someone at its console": ("break(=|$)", r"systemd\.break(=|$)"),
    "with which all nodes would have one machine ID": (r"systemd\.machine_id=",),
    NO_REBOOT: ("panic=(?!-?0*[1-9][0-9]*$)",),
}  # fmt: skip
# Sysctls that are one number, as paths. A node reboots, and so falls back, only if `kernel/panic` is not zero.
NUMBERS = (
    "fs/file-max", "fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "kernel/dmesg_restrict",
    "kernel/hung_task_timeout_secs", "kernel/kptr_restrict", "kernel/panic", "kernel/panic_on_oops",
    "kernel/panic_on_warn", "kernel/pid_max", "kernel/sysrq", "net/core/somaxconn", "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max", "vm/max_map_count", "vm/overcommit_memory", "vm/panic_on_oom", "vm/swappiness",
)  # fmt: skip
# cloud-init's arguments have no effect: on a node it reads only the seed that the edge agent has chosen.
UNREAD = ("ds=", "ci.", "cc:", "cloud_init=", "cloud_config_url=", "network_config=")
# COMMAND_LINE_SIZE of Debian's kernels, and the most that the build and a board add, in bytes.
LONGEST = {Architecture.x86_64: 2048, Architecture.arm64: 2048, Architecture.armv7: 1024}
OWN = 600

Where = Callable[..., str]


def check_kernel(profile: Profile, where: Where) -> None:
    """Raise `Error` for the first argument or sysctl that is reserved or has no effect."""
    for number, text in enumerate(profile.kernel.arguments):
        position = where(f"kernel.arguments[{number}]")
        if text.count('"') % 2:
            hint = (
                "write double quotes in pairs around a value: the kernel would join all that follows into one argument"
            )
            raise Error(f"found one double quote in {quote_text(text)}", where=position, hint=hint)
        for word in split_arguments(text):
            if reason := reserved_reason(word):
                message = f"found the kernel argument {quote_text(word)}, {reason}"
                raise Error(message, where=position, hint="remove it")
            if word.replace("-", "_").startswith(UNREAD):
                name = quote_text(word.partition("=")[0])
                message = f"found the kernel argument {name}, which has no effect: a node reads only its seed"
                raise Error(message, where=position, hint="remove it; `edge-osbuild seed` makes a seed")
    check_length(profile.kernel.arguments, profile.architecture, where)
    check_sysctls(profile.kernel, where)


def split_arguments(text: str) -> Iterator[str]:
    """Split a text into arguments like the kernel: at blanks that are not between double quotes."""
    word, quotes = "", False
    for sign in text:
        quotes ^= sign == '"'
        if sign == " " and not quotes:
            yield word
            word = ""
        else:
            word += sign
    yield word


def reserved_reason(word: str) -> str | None:
    """Why no profile or board may set this kernel argument, or None. systemd removes quotes and backslashes in it."""
    plain = "".join(sign for sign in word if sign not in "\"'\\").replace("-", "_").removeprefix("rd.").lower()
    if plain.startswith("panic="):
        plain = plain.replace("_", "-")
    return next((reason for reason, forms in RESERVED.items() if re.match("|".join(forms), plain)), None)


def check_length(arguments: Sequence[str], architecture: Architecture, where: Where) -> None:
    """Raise `Error` for arguments that are too long, because the kernel truncates them silently."""
    limit = LONGEST[architecture] - OWN
    length = sum(len(text) + 1 for text in arguments)
    if length > limit:
        message = f"found kernel arguments of {length} characters, expected at most {limit} on {architecture}"
        raise Error(
            message, where=where("kernel.arguments"), hint="use `kernel.sysctls` or an overlay for some of them"
        )


def check_sysctls(kernel: KernelSettings, where: Where) -> None:
    """Raise `Error` for a value that the kernel rejects, or a setting that is written twice, with `.` and with `/`."""
    seen: dict[str, str] = {}
    for name, value in kernel.sysctls.items():
        position = where(f"kernel.sysctls.{name}")
        parts = sysctl_path(name.removeprefix("-"))
        if parts in seen:
            hint = f"the other is `{seen[parts]}`: keep one of them"
            raise Error(f"found the sysctl {quote_text(name)} twice", where=position, hint=hint)
        seen[parts] = name
        if parts in NUMBERS and not re.fullmatch(r"-?[0-9]+", str(value)):
            message = f"found {quote_text(str(value))} for the sysctl {quote_text(name)}, expected a whole number"
            raise Error(message, where=position, hint="write a number, such as 1")
        if parts == "kernel/panic" and int(value) == 0:
            message = f"found 0 for the sysctl {quote_text(name)}, {NO_REBOOT}"
            raise Error(message, where=position, hint="write the seconds until the reboot, such as 10")


def sysctl_path(name: str) -> str:
    """Return a sysctl's name as a path below /proc/sys: the first `.` or `/` is the separator (sysctl.d(5))."""
    first = next((sign for sign in name if sign in "./"), "")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))
