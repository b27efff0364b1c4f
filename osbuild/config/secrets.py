"""Resolves secrets, only when a seed is rendered or a key is used. Errors name the reference, never the value."""

import errno
import os
import select
import stat
from collections.abc import Iterable
from pathlib import Path

from osbuild.config.checks import ssh_key
from osbuild.host import paths
from osbuild.shared.errors import Error

LARGEST = 64 * 1024  # bytes
PATIENCE = 5.0  # seconds


def resolve_secret(ref: str, *, folder: Path) -> str:
    """Return the secret that `ref` refers to, without the line break at its end.

    `file:PATH` is relative to `folder`, the profile's folder; `~/` is the user's home. Raises `Error` if the file or
    variable does not exist or is empty.
    """
    kind, _, name = ref.partition(":")
    if kind == "env" and name:
        value = os.environ.get(name, "")
        hint = f"set it with `export {name}=…`"
    elif kind == "file" and name:
        value = _read(ref, paths.resolve_named(name, folder))
        hint = "write the secret into that file"
    else:
        raise Error("this is not a reference to a secret", hint="write `file:PATH` or `env:NAME`")
    value = value.rstrip("\r\n")
    if not value.strip():
        raise Error(f"the secret `{ref}` is empty or not set", hint=hint)
    return value


def resolve_public_keys(values: Iterable[str], *, folder: Path) -> tuple[str, ...]:
    """Return a user's `ssh_keys` as lines of authorized_keys(5), with references resolved. Raises `Error`."""
    lines: list[str] = []
    for value in values:
        if not value.startswith(("file:", "env:")):
            lines.append(value)
            continue
        for line in resolve_secret(value, folder=folder).splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                if reason := ssh_key.public_key_problem(line):
                    hint = "name a file with public keys, such as `file:~/.ssh/id_ed25519.pub`"
                    raise Error(f"no SSH public key in `{value}`: {reason}", hint=hint)
                lines.append(line.strip())
    return tuple(lines)


def _read(ref: str, path: Path) -> str:
    reason = ""
    try:
        data = _bytes(path)
        if len(data) <= LARGEST:
            return data.decode()
        reason = f"more than {LARGEST // 1024} KiB"
    except OSError as error:
        reason = error.strerror or "cannot be read"
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except ValueError:
        reason = "no such file can exist"
    # Raised here, so that no exception that carries the bytes is attached to it.
    hint = f"the path is relative to the profile: {path}"
    raise Error(f"cannot read the secret `{ref}`: {reason}", hint=hint)


def _bytes(path: Path) -> bytes:
    """Read the beginning of a file, or what another program writes to a pipe before a timeout. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # such as `file:/dev/fd/63`, which a shell's <(…) is
            if not select.select([file], [], [], PATIENCE)[0]:
                raise OSError(errno.ETIMEDOUT, f"nothing was written to this pipe within {PATIENCE:g} s")
            os.set_blocking(descriptor, True)
        data = b""
        while len(data) <= LARGEST and (chunk := file.read(LARGEST + 1 - len(data))):
            data += chunk
        return data
