"""Debian packages: resolving names to exact files, downloading these, and a repository made of them.

The host's own apt does the talking, with the host's own settings (proxies, certificates), so that an archive is
reached here as it is everywhere else on the machine. Signatures are checked by apt when it resolves (apt-secure(8));
from then on a package is known by its sha256.
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
from osbuild.host.cache import SCRATCH, Cache, content_key, intact, move_if_intact
from osbuild.host.modes import UMASK
from osbuild.host.run import Argument, CommandError, hide_credentials, run_command, run_contained
from osbuild.host.scratch import remove_tree, scratch_folder
from osbuild.inputs.apt_sources import COMPONENTS, MIRROR, SUITE, check_releases, store_mirror
from osbuild.shared.errors import Error
from osbuild.shared.sizes import format_bytes

SECURITY = f"{SUITE}-security"
WITHOUT = "EDGE_OSBUILD_WITHOUT"
# A line of `apt-get --print-uris`: names as Debian's policy has them (5.6.1), versions as deb-version(7) has them.
URI = re.compile(
    r"'\S+' ([a-z0-9][a-z0-9+.-]*)_((?:[0-9A-Za-z.+~-]|%3a)+)_([a-z0-9-]+)\.deb ([0-9]{1,15}) SHA256:([0-9a-f]{64})"
)
STALE = "the mirror's index is not the one that its signed Release file names"
GONE = (
    "the archive no longer has it: run `edge-osbuild lock` to move to today's versions, or set EDGE_OSBUILD_MIRROR to "
    "a snapshot of the archive, or give a folder that has the files with --from"
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
        """The name that apt gives the file (an epoch's colon is escaped)."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


class PackageArchive:
    """Debian's archive for one architecture, through an apt root that is apart from the host's."""

    def __init__(self, cache: Cache, architecture: Architecture) -> None:
        self.cache = cache
        self.architecture = architecture
        folder = cache.folder("apt")
        self.root = folder / "-".join((SUITE, architecture.to_debian(), *COMPONENTS[1:]))
        with suppress(PermissionError):  # another user's cache is theirs to protect
            folder.chmod(0o700)  # apt's own files have the addresses of proxies and mirrors, passwords included

    def update_index(self, without: Sequence[str] = (), *, known: bool = False) -> tuple[str, ...]:
        """Read the archive's index anew. mmdebstrap knows where Debian is by default; EDGE_OSBUILD_MIRROR overrides.

        While a mirror is being synchronised, the index of a suite such as `trixie-security` may not be the one that its
        signed Release file names. That is an `Error`, unless `without` or $EDGE_OSBUILD_WITHOUT names the suite, or all
        packages that are wanted are `known` by their sha256. Returns the suites that were left out.
        """
        allowed = {*without, *os.environ.get(WITHOUT, "").split()}
        with self.cache.locked("apt-" + self.root.name):
            try:
                self._update(())
            except CommandError as error:
                stale = find_stale_suites(error.output)
                if not stale or SUITE in stale:
                    raise
                if not known and (refused := sorted({*stale} - allowed)):
                    raise omission_error(refused, self.architecture) from error
                log.warn(f"{', '.join(stale)} for {self.architecture.to_debian()}: {STALE}. Going on without")
                self._update(stale)
                return stale
            if missing := self._missing():
                log.warn(f"{MIRROR} has no {missing}: packages are without the security updates that are in it")
                return (missing,)
        return ()

    def _missing(self) -> str:
        """The name of the suite with security updates if the index was read without it, else an empty text."""
        files = (path for path in (self.root / "etc/apt").rglob("*") if path.suffix in (".list", ".sources"))
        sources = (path.read_text() for path in files)
        return "" if any(SECURITY in text for text in sources) else SECURITY

    def _update(self, without: Sequence[str]) -> None:
        mirror = os.environ.get(MIRROR)
        # mmdebstrap runs these after it has written the list of sources, before it reads them.
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
                SUITE,
                made,
                *([store_mirror(mirror, scratch)] if mirror else []),
            ]
            run_contained(
                command,
                hint="is the Debian archive reachable from here by https? `apt-get update` uses the same settings; "
                f"{MIRROR} names another mirror, by http too",
                umask=UMASK,
            )
            # Only a whole index replaces the last one, and no older one does.
            check_releases(self.root, made)
            remove_tree(self.root)
            made.rename(self.root)

    def _apt(self, *words: str, cwd: Path | None = None) -> str:
        """Output of apt-get, on an index that nobody replaces meanwhile. Raises `Error`."""
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
        command = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items()), *words]
        with self.cache.locked("apt-" + self.root.name, shared=True):
            try:
                return run_contained(command, cwd=cwd)
            except CommandError as error:
                raise explain_apt(error, self.architecture) from error

    def resolve_packages(self, packages: Iterable[str]) -> tuple[Deb, ...]:
        """The essential packages and `packages` with all that they depend on, sorted by name.

        Raises `Error` where a package does not exist or two of them can't be installed together.
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

    def _intact(self, deb: Deb) -> bool:
        """Whether the cache has a package as it was downloaded; a damaged one is removed."""
        return intact(stored_path(self.cache, deb), deb.sha256, f"package {deb.filename}")

    def download_packages(self, debs: Sequence[Deb], *, folder: Path | None = None) -> None:
        """Bring each of `debs` into the cache, verified. `folder` is looked into before the network."""
        store = self.cache.folder("debs")
        with ThreadPoolExecutor() as pool:
            missing = [deb for deb, ok in zip(debs, pool.map(self._intact, debs), strict=True) if not ok]
        if folder is not None:
            missing = [deb for deb in missing if not store_package(folder / deb.filename, deb, store)]
        if not missing:
            return
        if not (self.root / "var/lib/apt/lists").exists():
            self.update_index(known=True)
        total = sum(deb.size for deb in missing)
        with self.cache.scratch("apt") as scratch:
            with log.step(f"downloading {len(missing)} packages, {format_bytes(total)}"):
                wanted = [f"{deb.name}={deb.version}" for deb in missing]
                self._apt("download", *wanted, cwd=scratch)
            with ThreadPoolExecutor() as pool:
                taken = pool.map(lambda deb: store_package(scratch / deb.filename, deb, store), missing)
                for deb, ok in zip(missing, taken, strict=True):
                    if not ok:
                        raise Error(f"package {deb.filename} does not have the sha256 {deb.sha256}", hint=GONE)


def omission_error(suites: Sequence[str], architecture: Architecture) -> Error:
    """The error that says which suites can't be read, and how to go on."""
    names = " ".join(suites)
    return Error(
        f"{names} for {architecture.to_debian()}: {STALE}",
        where="Debian's archive",
        hint="it may be in the middle of a synchronisation: try again in some minutes, or with another mirror "
        f"({MIRROR}). To go on without those updates: `edge-osbuild lock PROFILE "
        f'{" ".join(f"--without {suite}" for suite in suites)}`, or set {WITHOUT}="{names}"',
    )


def host_apt_settings() -> list[str]:
    """The host's apt settings for proxies, certificates and date checks, as lines of apt.conf(5)."""
    wanted = re.compile(r"Acquire::(https?::|Check-|Max-|Retries|ForceIPv)")
    lines = run_command(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"]).splitlines()
    return [line for line in lines if wanted.match(line) and not line.endswith('"";')]


def find_stale_suites(output: str) -> tuple[str, ...]:
    """The suites whose index apt refused because it is not the one that was signed, from what apt said."""
    pattern = r"^E: Failed to fetch \S+/dists/([^/]+)/\S+ +(?:File has unexpected size|Hash Sum mismatch)"
    return tuple(sorted(set(re.findall(pattern, output, re.MULTILINE))))


def explain_apt(error: CommandError, architecture: Architecture) -> Error:
    """apt's own words, without the noise around them."""
    reasons = [line[3:] for line in error.output.splitlines() if line.startswith("E: ")]
    unmet = [line.strip() for line in error.output.splitlines() if " : Depends:" in line or " : Conflicts:" in line]
    hint = "check `packages` in the profile"
    if any("was not found" in reason and "Version" in reason for reason in reasons):
        hint = GONE
    elif any("Failed to fetch" in reason for reason in reasons):
        hint = "is the Debian archive reachable from here? `apt-get update` uses the same settings"
    return Error("; ".join([*reasons, *unmet]) or str(error), where=f"apt ({architecture})", hint=hint)


def stored_path(cache: Cache, deb: Deb) -> Path:
    """Where the cache keeps a package."""
    return cache.folder("debs") / f"{deb.sha256}.deb"


def store_package(path: Path, deb: Deb, store: Path) -> bool:
    """Copy `path` into `store` if it is that package; say whether it is."""
    if not path.is_file() or path.stat().st_size != deb.size:
        return False
    with scratch_folder(store, SCRATCH) as scratch:
        copy = scratch / deb.name
        shutil.copyfile(path, copy)
        return move_if_intact(copy, store / f"{deb.sha256}.deb", deb.sha256) == deb.sha256


def make_repository(cache: Cache, debs: Sequence[Deb]) -> Path:
    """A folder that apt can install exactly `debs` from (a flat repository, sources.list(5)).

    All of `debs` must have been downloaded. The index is written from the packages themselves.
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
