"""The architectures that images are built for, and their names in other projects."""

import platform
from enum import StrEnum

from osbuild.shared.errors import Error


class Architecture(StrEnum):
    """Named as in a profile; the methods give other projects' names for the same thing."""

    x86_64 = "x86_64"
    arm64 = "arm64"
    armv7 = "armv7"

    @classmethod
    def native(cls) -> "Architecture":
        """The architecture of this host. Raises `Error` on one that no image can be built on."""
        names = {"x86_64": cls.x86_64, "aarch64": cls.arm64, "armv7l": cls.armv7}
        machine = platform.machine()
        if machine not in names:
            raise Error(f"this host's architecture {machine} is not supported", hint="use an x86_64 or ARM64 host")
        return names[machine]

    def to_debian(self) -> str:
        """Debian's name of the architecture (dpkg-architecture(1))."""
        return {"x86_64": "amd64", "arm64": "arm64", "armv7": "armhf"}[self]

    def to_go(self) -> str:
        """GOARCH; 32-bit ARM also needs GOARM=7."""
        return {"x86_64": "amd64", "arm64": "arm64", "armv7": "arm"}[self]

    def to_efi(self) -> str:
        """The UEFI specification's short name (section 3.5.1.1), as in `BOOTX64.EFI`."""
        return {"x86_64": "x64", "arm64": "aa64", "armv7": "arm"}[self]

    def to_qemu(self) -> str:
        """The suffix of `qemu-system-…`."""
        return {"x86_64": "x86_64", "arm64": "aarch64", "armv7": "arm"}[self]

    def to_oci(self) -> dict[str, str]:
        """`architecture`, and on ARMv7 also `variant`, of an OCI image (image-spec, config.md)."""
        name = {"x86_64": "amd64", "arm64": "arm64", "armv7": "arm"}[self]
        return {"architecture": name, "variant": "v7"} if self is Architecture.armv7 else {"architecture": name}

    def has_signed_modules(self) -> bool:
        """Whether Debian signs its kernel's modules, so that a locked-down kernel loads them (kernel_lockdown(7))."""
        return self is not Architecture.armv7
