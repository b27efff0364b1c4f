"""The choice of the seed for this boot, by the image's rule for media (`seed.media` of the profile)."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from osbuild.agent.seed.accepted import AcceptedSeed, accept_seed
from osbuild.agent.seed.media import mounted
from osbuild.agent.seed.signature import verify_signature
from osbuild.agent.seed.store import stored_seed, superseded_digest
from osbuild.agent.system import System
from osbuild.shared.seed.files import SeedFiles, read_seed
from osbuild.shared.seed.refused import SeedRefused

ON_ESP = "/efi/seed"
ESP, STORED, DEFAULTS = "EFI system partition", "stored", "defaults"


class Media(StrEnum):
    """When a medium may configure a node."""

    FIRST_BOOT = "first-boot"
    """only while the node has no seed of its own"""
    SIGNED = "signed"
    """at every boot, if a key that the image trusts has signed its seed"""
    ALWAYS = "always"
    """at every boot"""


@dataclass
class SeedChoice:
    """The chosen seed, errors of refused seeds, and notes about media that were not read."""

    accepted: AcceptedSeed
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_media_rule(system: System) -> Media:
    """The image's rule; without one, the strictest rule that needs no keys."""
    try:
        return Media(system.image().seed.media or "")
    except ValueError:
        return Media.FIRST_BOOT


def choose_seed(system: System, devices: list[Path], media: Media) -> SeedChoice:
    """Choose the first valid seed of: media, the ESP of the node's own disk, the stored seed, the defaults.

    With `Media.FIRST_BOOT`, the node's own seeds are preferred to media. A refused seed is reported and skipped.
    """
    errors: list[str] = []

    def from_medium(device: Path) -> AcceptedSeed:
        with mounted(system, device) as folder:
            seed = read_seed(folder)
        if media is Media.SIGNED:
            verify_signature(system, seed)
        return accept_seed(seed, f"medium {device}")

    def from_esp() -> AcceptedSeed | None:
        folder = system.path(ON_ESP)
        if not folder.is_dir():
            return None
        seed = read_seed(folder)
        return None if seed.digest == superseded_digest(system) else accept_seed(seed, ESP)

    def from_store() -> AcceptedSeed | None:
        seed = stored_seed(system)
        return accept_seed(seed, STORED) if seed else None

    on_media = [(f"medium {device}", lambda device=device: from_medium(device)) for device in devices]
    own: list[tuple[str, Callable[[], AcceptedSeed | None]]] = [(ESP, from_esp), (STORED, from_store)]
    for source, read in [*own, *on_media] if media is Media.FIRST_BOOT else [*on_media, *own]:
        if (accepted := try_source(source, read, errors)) is not None:
            notes = []
            if media is Media.FIRST_BOOT and devices and accepted.source in (ESP, STORED):
                hint = f"to replace it, run `sudo edge-agent seed apply {devices[0]}`"
                notes.append(f"medium {devices[0]} was not read, because this node has a seed: {hint}")
            return SeedChoice(accepted, errors, notes)
    return SeedChoice(accept_seed(default_seed(system), DEFAULTS), errors)


def try_source(source: str, read: Callable[[], AcceptedSeed | None], errors: list[str]) -> AcceptedSeed | None:
    """The seed of one source, or None. A seed that is refused or cannot be read is added to `errors`."""
    try:
        return read()
    except SeedRefused as problem:
        errors.append(f"seed on {source} refused: {problem}")
    except subprocess.CalledProcessError as problem:
        output = " ".join(str(problem.stderr or "").split()) or problem
        errors.append(f"seed on {source} cannot be read: {output}")
    except OSError as problem:
        errors.append(f"seed on {source} cannot be read: {problem.strerror or problem}")
    except Exception as problem:  # even if a file makes the parser fail, the node must get users from another seed
        errors.append(f"seed on {source} refused: {type(problem).__name__}: {problem}")
    return None


def default_seed(system: System) -> SeedFiles:
    """The seed of a node without a seed: a name from the machine-id, no users, no network settings."""
    machine = system.text("/etc/machine-id").strip() or "0" * 32
    metadata = {"instance-id": f"default-{machine}", "local-hostname": f"edge-{machine[:8]}"}
    return SeedFiles(
        {
            "user-data": b"#cloud-config\nusers: []\n",
            "meta-data": json.dumps(metadata).encode(),
            "network-config": b"version: 2\nethernets: {}\n",
        }
    )
