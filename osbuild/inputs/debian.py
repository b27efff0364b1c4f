"""Debian packages: resolve names to exact files, download the files, and make a repository of them.

The host's own apt downloads, with the host's settings for proxies and certificates. apt checks signatures when it
resolves (apt-secure(8)); afterwards a package is identified by its SHA-256.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import SCRATCH, Cache, content_key, keep_if_intact, move_if_intact
from osbuild.host.modes import UMASK
from osbuild.host.run import Argument, CommandError, hide_credentials, run_command, run_contained
from osbuild.host.scratch import remove_tree, scratch_folder
from osbuild.inputs.apt_sources import COMPONENTS, MIRROR, SUITE, check_releases, store_mirror
from osbuild.shared.errors import Error
from osbuild.shared.sizes import format_bytes

WITHOUT = "EDGE_OSBUILD_WITHOUT"
# A line of `apt-get --print-uris`: names as Debian's policy has them (5.6.1), versions as deb-version(7) has them.
URI = re.compile(
    r"'\S+' ([a-z0-9][a-z0-9+.-]*)_((?:[0-9A-Za-z.+~-]|%3a)+)_([a-z0-9-]+)\.deb ([0-9]{1,15}) SHA256:([0-9a-f]{64})"
)
STALE = "the mirror's index is not the one that its signed Release file names"
GONE = (
    "the archive no longer has this version: run `edge-osbuild lock` to update the lock, or set EDGE_OSBUILD_MIRROR to "
    "a snapshot of the archive, or pass a folder with the packages with --from"
)


@dataclass(frozen=True, order=True)
class Deb:
    """One binary package; `sha256` in hex, `size` in bytes."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        """The file's name as apt writes it (the colon of an epoch is escaped)."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


class PackageArchive:
    """Debian's archive for one architecture and one suite. Its apt root folder is separate from the host's."""

    def __init__(self, cache: Cache, architecture: Architecture, suite: str = SUITE) -> None:
        self.cache = cache
        self.architecture = architecture
        self.suite = suite
        folder = cache.folder("apt")
        self.root = folder / "-".join((suite, architecture.to_debian(), *COMPONENTS[1:]))
        with suppress(PermissionError):  # another user's cache is theirs to protect
            folder.chmod(0o700)  # apt's own files have the addresses of proxies and mirrors, passwords included

    def update_index(self, without: Sequence[str] = (), *, pinned: bool = False) -> tuple[str, ...]:
        """Download the archive's index, from $EDGE_OSBUILD_MIRROR or mmdebstrap's default, and return omitted suites.

        While a mirror is synchronised, the index of a suite such as `trixie-security` may not match its signed Release
        file. Raises `Error` then, unless `without` or $EDGE_OSBUILD_WITHOUT allows to omit the suite, or `pinned` says
        that the caller knows the SHA-256 of every package.
        """
        allowed = {*without, *os.environ.get(WITHOUT, "").split()}
        with self.cache.locked("apt-" + self.root.name):
            try:
                self._update(())
            except CommandError as error:
                stale = find_stale_suites(error.output)
                if not stale or self.suite in stale:
                    raise
                if not pinned and (refused := sorted({*stale} - allowed)):
                    raise omission_error(refused, self.architecture) from error
                log.warn(f"{', '.join(stale)} for {self.architecture.to_debian()}: {STALE}. Continuing without it")
                self._update(stale)
                return stale
            if missing := self._missing():
                log.warn(f"{MIRROR} has no {missing}: packages may lack security updates")
                return (missing,)
        return ()

    def _missing(self) -> str:
        """Return the name of the suite with security updates if the mirror does not have it, else an empty string."""
        files = (path for path in (self.root / "etc/apt").rglob("*") if path.suffix in (".list", ".sources"))
        sources = (path.read_text() for path in files)
        security = f"{self.suite}-security"
        return "" if any(security in text for text in sources) else security

    def _update(self, without: Sequence[str]) -> None:
        mirror = os.environ.get(MIRROR)
        # mmdebstrap runs these hooks between writing and reading the list of sources.
        edits = [f"/ {name} /d" for name in without] + ([] if mirror else ["s|http://|https://|"])
        with self.cache.scratch("apt") as scratch:
            # Addresses of proxies and mirrors may have passwords, and anybody can read command lines.
            settings, made = scratch / "apt.conf", scratch / "root"
            settings.write_text("".join(f"{line}\n" for line in host_apt_settings()))
            command: list[Argument] = [
                "mmdebstrap",
                "--variant=custom",
                "--skip=cleanup/apt,cleanup/reproducible,check/qemu",
                f"--architectures={self.architecture.to_debian()}",
                f"--components={','.join(COMPONENTS)}",
                f"--aptopt={settings}",
                *(f"--setup-hook=find \"$1\"/etc/apt -name '*.list' -exec sed -i '{edit}' {{}} +" for edit in edits),
                self.suite,
                made,
                *([store_mirror(mirror, scratch, self.suite)] if mirror else []),
            ]
            run_contained(
                command,
                hint="check that this host reaches the Debian archive by https (`apt-get update` uses the same "
                f"settings), or set {MIRROR} to another mirror, which may use http",
                env={**os.environ, "TMPDIR": str(scratch)}, umask=UMASK,
            )  # fmt: skip
            # Only a whole index replaces the last one, and no older one does.
            check_releases(self.root, made)
            remove_tree(self.root)
            made.rename(self.root)

    def _apt(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run apt-get while the index is locked, and return its output. Raises `Error`."""
        debian = self.architecture.to_debian()
        settings = {
            "Dir": self.root,
            "Dir::State::status": self.root / "var/lib/dpkg/status",
            "APT::Architecture": debian,
            "APT::Architectures::": debian,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::ForceHash": "SHA256",
            "Acquire::Retries": "3",
        }
        command = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items()), *arguments]
        with self.cache.locked("apt-" + self.root.name, shared=True):
            try:
                return run_contained(command, cwd=cwd)
            except CommandError as error:
                raise explain_apt(error, self.architecture) from error

    def resolve_packages(self, packages: Iterable[str]) -> tuple[Deb, ...]:
        """Return the essential packages and `packages` with all their dependencies, sorted by name.

        Raises `Error` if a package does not exist or two packages conflict.
        """
        text = self._apt("install", "--yes", "--print-uris", "?essential", *sorted(set(packages)))
        return tuple(sorted({self._parse_uri(line) for line in text.splitlines() if line.startswith("'")}))

    @staticmethod
    def _parse_uri(line: str) -> Deb:
        """The package in a line of `apt-get --print-uris`. Raises `Error` for an impossible name, or without sha256."""
        if not (match := URI.fullmatch(line)):
            shown = hide_credentials(line[:200])
            hint = f"its index is damaged or hostile: try another mirror ({MIRROR})"
            raise Error(
                f"the archive has a package that cannot be pinned: {shown}", where="Debian's archive", hint=hint
            )
        name, version, architecture, size, digest = match.groups()
        return Deb(name, unquote(version), architecture, digest, int(size))

    def _is_cached(self, deb: Deb) -> bool:
        """Whether the cache has an intact copy of a package. A damaged copy is removed."""
        return keep_if_intact(stored_path(self.cache, deb), deb.sha256, f"package {deb.filename}")

    def download_packages(self, debs: Sequence[Deb], *, folder: Path | None = None) -> None:
        """Get `debs` into the cache, from `folder` or the network, and verify them. Raises `Error`."""
        store = self.cache.folder("debs")
        with ThreadPoolExecutor() as pool:
            missing = [deb for deb, ok in zip(debs, pool.map(self._is_cached, debs), strict=True) if not ok]
        if folder is not None:
            missing = [deb for deb in missing if not store_package(folder / deb.filename, deb, store)]
        if not missing:
            return
        if not (self.root / "var/lib/apt/lists").exists():
            self.update_index(pinned=True)
        total = sum(deb.size for deb in missing)
        with self.cache.scratch("apt") as scratch:
            with log.step(f"downloading {len(missing)} packages, {format_bytes(total)}"):
                versions = [f"{deb.name}={deb.version}" for deb in missing]
                self._apt("download", *versions, cwd=scratch)
            with ThreadPoolExecutor() as pool:
                stored = pool.map(lambda deb: store_package(scratch / deb.filename, deb, store), missing)
                for deb, ok in zip(missing, stored, strict=True):
                    if not ok:
                        raise Error(f"package {deb.filename} does not have the sha256 {deb.sha256}", hint=GONE)


def omission_error(suites: Sequence[str], architecture: Architecture) -> Error:
    """Return the error about suites that can't be read, with the ways to continue."""
    names = " ".join(suites)
    return Error(
        f"{names} for {architecture.to_debian()}: {STALE}",
        where="Debian's archive",
        hint="the mirror may be synchronising: try again in some minutes, or set another mirror "
        f"({MIRROR}). To continue without these updates: `edge-osbuild lock PROFILE "
        f'{" ".join(f"--without {suite}" for suite in suites)}`, or set {WITHOUT}="{names}"',
    )


def host_apt_settings() -> list[str]:
    """Return the host's apt settings for proxies, certificates and date checks, as lines of apt.conf(5)."""
    relevant = re.compile(r"Acquire::(https?::|Check-|Max-|Retries|ForceIPv)")
    lines = run_command(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"]).splitlines()
    return [line for line in lines if relevant.match(line) and not line.endswith('"";')]


def find_stale_suites(output: str) -> tuple[str, ...]:
    """Parse apt's messages for suites whose index does not match the signed Release file."""
    pattern = r"^E: Failed to fetch \S+/dists/([^/]+)/\S+ +(?:File has unexpected size|Hash Sum mismatch)"
    return tuple(sorted(set(re.findall(pattern, output, re.MULTILINE))))


def explain_apt(error: CommandError, architecture: Architecture) -> Error:
    """Reduce apt's output to its error messages, with a hint."""
    reasons = [line[3:] for line in error.output.splitlines() if line.startswith("E: ")]
    unmet = [line.strip() for line in error.output.splitlines() if " : Depends:" in line or " : Conflicts:" in line]
    hint = "check `packages` in the profile"
    if any("was not found" in reason and "Version" in reason for reason in reasons):
        hint = GONE
    elif any("Failed to fetch" in reason for reason in reasons):
        hint = "check that this host reaches the Debian archive; `apt-get update` uses the same settings"
    return Error("; ".join([*reasons, *unmet]) or str(error), where=f"apt ({architecture})", hint=hint)


def stored_path(cache: Cache, deb: Deb) -> Path:
    """Return the path of a package in the cache."""
    return cache.folder("debs") / f"{deb.sha256}.deb"


def store_package(path: Path, deb: Deb, store: Path) -> bool:
    """Copy `path` into the folder `store` if it is the package `deb`. Returns whether it is."""
    if not path.is_file() or path.stat().st_size != deb.size:
        return False
    with scratch_folder(store, SCRATCH) as scratch:
        copy = scratch / deb.name
        shutil.copyfile(path, copy)
        return move_if_intact(copy, store / f"{deb.sha256}.deb", deb.sha256) == deb.sha256


def make_repository(cache: Cache, debs: Sequence[Deb]) -> Path:
    """Return a folder with a flat repository of exactly `debs` (sources.list(5)), which must be in the cache.

    Its index is generated from the packages' own control data.
    """
    ordered = sorted(debs)
    key = content_key("repository", [deb.sha256 for deb in ordered])

    def stanza(deb: Deb) -> str:
        control = run_command(["dpkg-deb", "--field", stored_path(cache, deb)]).rstrip("\n")
        return f"{control}\nFilename: ./{deb.filename}\nSize: {deb.size}\nSHA256: {deb.sha256}\n"

    def make(path: Path) -> None:
        path.mkdir()
        with ThreadPoolExecutor() as pool:
            (path / "Packages").write_text("\n".join(pool.map(stanza, ordered)))
        for deb in ordered:
            os.link(stored_path(cache, deb), path / deb.filename)

    return cache.get_or_make("repositories", key, make)
