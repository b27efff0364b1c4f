"""An environment of U-Boot as bytes: a CRC-32, then `name=value` texts (U-Boot manual, "Environment Variables", `env`).

`env import -c` and `env export -c` use this format if U-Boot is built for a single copy of its environment.
"""

import zlib
from collections.abc import Mapping


def pack_environment(variables: Mapping[str, str], size: int) -> bytes:
    """The environment in `size` bytes. Raises `ValueError` if it does not fit or a variable is invalid."""
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"U-Boot cannot store a variable {name!r} with the value {value!r}")
    data = b"".join(f"{name}={value}\0".encode() for name, value in variables.items()) + b"\0"
    if len(data) > size - 4:
        raise ValueError(f"the variables have {len(data)} bytes, but only {size - 4} fit")
    data = data.ljust(size - 4, b"\0")
    return zlib.crc32(data).to_bytes(4, "little") + data


def unpack_environment(data: bytes) -> dict[str, str] | None:
    """The variables, or None if the checksum is wrong, as after a torn write."""
    if len(data) < 5 or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        return None
    texts = data[4:].partition(b"\0\0")[0].split(b"\0")
    pairs = (text.decode("ascii", "replace").partition("=") for text in texts if text)
    return {name: value for name, _, value in pairs}
