"""Keys of a profile for what runs below the system: the kernel and the disk."""

from dataclasses import dataclass, field

from osbuild.config.metadata import Size, key


@dataclass(frozen=True)
class KernelSettings:
    flavour: str = field(
        default="cloud",
        metadata=key(
            "which of Debian's kernels: `cloud` for virtual machines, `generic` for hardware",
            choices=("cloud", "generic"),
        ),
    )
    arguments: tuple[str, ...] = field(
        default=(),
        metadata=key("kernel command line arguments to add", pattern=r"^[!-~]+( [!-~]+)*$", form="printable ASCII"),
    )
    modules: tuple[str, ...] = field(
        default=(), metadata=key("modules to load at boot", pattern=r"^[A-Za-z0-9_-]+$", form="a kernel module's name")
    )
    sysctls: dict[str, str | int] = field(
        default_factory=dict,
        metadata=key(
            "sysctl settings",
            keys=r"^-?[A-Za-z0-9_*-]+([./][A-Za-z0-9_*-]+)+$",
            keys_form="a name such as `net.ipv4.ip_forward`",
        ),
    )


@dataclass(frozen=True)
class DiskSettings:
    esp: Size = field(default=Size(256 * 2**20), metadata=key("size of the ESP", minimum=64 * 2**20))
    slot: Size = field(
        default=Size(1024 * 2**20),
        metadata=key("size of each of the two slots, including the hash tree", minimum=64 * 2**20),
    )
    data: Size = field(
        default=Size(2048 * 2**20),
        metadata=key("minimum size of the data partition, which grows to fill the disk", minimum=64 * 2**20),
    )
    headroom: int = field(
        default=30,
        metadata=key("share of a slot, in percent, that must be free for later updates", minimum=0, maximum=90),
    )
