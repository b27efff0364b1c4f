"""Checks kernel arguments and sysctls of a profile, as the kernel and systemd parse them."""

from collections.abc import Callable, Iterator, Sequence

from osbuild.config.document import quote_text
from osbuild.config.profile import KernelSettings, Profile
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error

# Set by the build or the boot flow, or the end of the chain of trust: the node would not boot, or boot something else.
# `_` and `-` are the same to the kernel and to systemd; `rd.` limits one of systemd's to the initrd.
RESERVED = (
    "edge.", "rauc.", "root=", "roothash=", "roothashsig=", "rootflags=", "rootfstype=", "init=", "rdinit=", "initrd=",
    "usrhash=", "mount.usr", "systemd.verity", "systemd.volatile", "systemd.gpt_auto", "systemd.image_policy", "verity",
)  # fmt: skip
RESERVED_WORDS = ("ro", "rw", "gpt", "noinitrd", "systemd.gpt_auto", "systemd.volatile", "systemd.verity", "--", "-")
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
            if is_reserved(word):
                message = f"found the kernel argument {quote_text(word)}, which the build sets itself"
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


def is_reserved(word: str) -> bool:
    """Whether the build sets this kernel argument. systemd removes quotes and backslashes wherever they are."""
    plain = "".join(sign for sign in word if sign not in "\"'\\").replace("-", "_").removeprefix("rd.").lower()
    return plain.startswith(RESERVED) or plain in {name.replace("-", "_") for name in RESERVED_WORDS}


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
    """Raise `Error` for a setting that is written twice, as `net.ipv4.ip_forward` and `net/ipv4/ip_forward`."""
    seen: dict[str, str] = {}
    for name in kernel.sysctls:
        position = where(f"kernel.sysctls.{name}")
        parts = sysctl_path(name.removeprefix("-"))
        if parts in seen:
            hint = f"the other is `{seen[parts]}`: keep one of them"
            raise Error(f"found the sysctl {quote_text(name)} twice", where=position, hint=hint)
        seen[parts] = name


def sysctl_path(name: str) -> str:
    """Return a sysctl's name as a path below /proc/sys: the first `.` or `/` is the separator (sysctl.d(5))."""
    first = next((sign for sign in name if sign in "./"), "")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))
