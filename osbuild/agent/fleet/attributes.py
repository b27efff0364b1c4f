"""What a device says about itself to its update server."""

import configparser
import hashlib
import json
import os
import platform
from collections.abc import Mapping

from osbuild.agent.certificate_end import KUBERNETES_FILE, certificate_end
from osbuild.agent.fleet.facts import read_facts
from osbuild.agent.fleet.identity import identity_files
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.health import RESULT_FILE
from osbuild.agent.system import System
from osbuild.agent.update.minimum_version import CONFIG
from osbuild.shared.files import file_system_space

VOLATILE = frozenset({"var_free"})


def read_attributes(system: System, settings: FleetSettings) -> dict[str, str]:
    """Return the attributes of this device, with those that its profile has chosen. Memory and space are in MiB."""
    chosen = {**settings.attributes, **read_facts(system, settings.facts)}
    image, health = system.image(), system.json(RESULT_FILE)
    attributes = {
        "compatible": read_compatible(system),
        "board": image.board,
        "image": image.name,
        "version": image.version,
        "architecture": image.architecture,
        "slot": system.argument("edge.slot"),
        "kernel": platform.release(),
        "kubernetes": image.kubernetes.version if image.kubernetes else None,
        "timezone": read_time_zone(system),
        "health": {True: "healthy", False: "not healthy"}.get(health.get("healthy", "")),
        "certificate_expires": None if settings.authorization else certificate_end(identity_files(system).certificate),
        "kubernetes_certificate_expires": system.text(KUBERNETES_FILE),
        "memory": str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20),
    }
    space = file_system_space(system.path("/var"))
    if space:
        attributes |= {"var_size": str(space.size // 2**20), "var_free": str(space.free // 2**20)}
    return {**chosen, **{name: str(value) for name, value in attributes.items() if value}}


def digest_attributes(attributes: Mapping[str, str]) -> str:
    """Return a text that is another one when attributes have changed that do not change all the time."""
    stable = {name: value for name, value in attributes.items() if name not in VOLATILE}
    return hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()


def read_time_zone(system: System) -> str | None:
    """Return the name of this device's time zone (localtime(5)); None if it has none."""
    try:
        _, found, name = str(system.path("/etc/localtime").readlink()).partition("/zoneinfo/")
    except OSError:
        return None
    return name if found else None


def read_compatible(system: System) -> str | None:
    """Return the `compatible` of bundles for this device (RAUC's manual, "System Configuration File")."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(system.text(CONFIG))
    except configparser.Error:
        return None
    return parser.get("system", "compatible", fallback=None)
