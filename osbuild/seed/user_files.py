"""Checks the files and mounts of a user's own cloud-config."""

import base64
import binascii
import gzip
import io
import re
import zlib

from osbuild.config.document import quote_text
from osbuild.seed import writable
from osbuild.seed.cloud_config import UserData

AGENT_SETTINGS = "/etc/edge-osbuild/"  # written from the profile
LARGEST_MODE = 0o7777
# Mount points that would hide the system. Folders below the kernel's file systems may be mounted.
SYSTEM = ("/", "/var", "/etc", "/run", "/dev", "/proc", "/sys")
KERNEL = ("/dev/", "/proc/", "/sys/")


def check(user_data: UserData) -> None:
    """Raise `UsageError` for a file or mount that has no effect on a node."""
    listed = user_data.config.get("write_files")
    written: dict[str, int] = {}
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(entry, dict) or not isinstance(path := entry.get("path"), str):
            continue  # cloud-init's schema reports this
        key = f"write_files[{number}]"
        check_path(user_data, path, key)
        check_nesting(user_data, writable.normalize(path), written, key)
        written[writable.normalize(path)] = number
        check_source(user_data, entry.get("source"), key)
        check_permissions(user_data, entry.get("permissions"), key)
        check_content(user_data, entry.get("content"), str(entry.get("encoding") or ""), key)
    mounts = user_data.config.get("mounts")
    for number, fields in enumerate(mounts if isinstance(mounts, list) else []):
        if isinstance(fields, list) and all(isinstance(text, str) for text in fields):
            check_mount(user_data, fields, f"mounts[{number}]")


def check_path(user_data: UserData, path: str, key: str) -> None:
    """Raise `UsageError` for a file that can't be written on a node, or that holds the edge agent's settings."""
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise user_data.error(f"found the path {quote_text(path)}", "write an absolute path without `..`", key)
    if path.endswith(("/", "/.")):
        raise user_data.error(f"the path {quote_text(path)} is a folder", "write the path of a file", key)
    if f"{writable.normalize(path)}/".startswith(AGENT_SETTINGS):
        hint = "set it in the profile or with `--set`"
        raise user_data.error(f"the edge agent's file {quote_text(path)} is written from the profile", hint, key)
    if writable.is_read_only(path):
        hint = "add it to an overlay of the image, or write it below /etc, /var or /usr/local"
        raise user_data.error(f"the file {quote_text(path)} can't be written: the root is read-only", hint, key)


def check_nesting(user_data: UserData, path: str, written: dict[str, int], key: str) -> None:
    """Raise `UsageError` for a file below another file. `written` are paths with the numbers of their entries."""
    for other, number in written.items():
        if path.startswith(f"{other}/") or other.startswith(f"{path}/"):
            message = f"the file {quote_text(path)} and {quote_text(other)} can't both be files"
            raise user_data.error(message, f"change the path here or of write_files[{number}]", key)


def check_source(user_data: UserData, source: object, key: str) -> None:
    """Raise `UsageError` for a source that needs a network."""
    uri = source.get("uri") if isinstance(source, dict) else None
    if isinstance(uri, str) and uri and not uri.startswith(("file:", "/")):
        message = "`source` is not fetched: files are written before the network is up"
        raise user_data.error(message, "write `content`, or download it with `runcmd`", f"{key}.source")


def check_permissions(user_data: UserData, value: object, key: str) -> None:
    """Raise `UsageError` for permissions that are not an octal number."""
    if not isinstance(value, str):
        return
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= LARGEST_MODE:
        message = f"found the permissions {quote_text(value)}, expected an octal number"
        raise user_data.error(message, 'write it like `"0644"`', f"{key}.permissions")


def check_content(user_data: UserData, content: object, encoding: str, key: str) -> None:
    """Raise `UsageError` for contents that can't be decoded."""
    if not isinstance(content, str | bytes):
        return
    data = content.encode() if isinstance(content, str) else content
    position = f"{key}.content"
    if encoding.endswith(("b64", "base64")):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error:
            raise user_data.error("the content is truncated, or not base64", "encode it again", position) from None
    if encoding.startswith("gz"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                while file.read(2**20):  # it may be much larger than its compressed form
                    pass
        except (OSError, EOFError, zlib.error):
            raise user_data.error("the content is not gzip data", "compress it again", position) from None


def check_mount(user_data: UserData, fields: list[str], key: str) -> None:
    """Raise `UsageError` for swap, or for a mount point that would hide the system or can't be created."""
    if "swap" in (fields[0], *fields[2:3]):
        hint = "remove it: the kubelet does not start if swap is enabled"
        raise user_data.error("swap is not used on a node", hint, key)
    point = fields[1] if len(fields) > 1 else ""
    if invalid := next((text for text in fields if re.search(r"\s", text)), None):
        raise user_data.error(f"found white space in {quote_text(invalid)}", r"write a space as `\040`", key)
    if not point.startswith("/") or ".." in point.split("/"):
        message = f"found the mount point {quote_text(point)}"
        raise user_data.error(message, "write an absolute path without `..`, such as `/srv/data`", key)
    path = writable.normalize(point)
    if path in SYSTEM or (writable.is_read_only(path) and not path.startswith(KERNEL)):
        hint = "write a folder below /srv, /mnt, /home or /var"
        raise user_data.error(f"the system is mounted at {quote_text(point)}", hint, key)
