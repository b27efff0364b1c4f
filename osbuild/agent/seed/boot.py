"""A boot's way with the seed: choose it, have cloud-init apply it, then store it.

Applying comes first: whatever is wrong with a file, a medium or the data partition, the node gets its users.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from osbuild.agent.seed import changes, cloudinit
from osbuild.agent.seed.accepted import Accepted, accept, rendered_keys
from osbuild.agent.seed.choose import DEFAULTS, ESP, ON_ESP, STORED, Media, choose, defaults, rule
from osbuild.agent.seed.files import read
from osbuild.agent.seed.media import OPENSTACK, WAIT, media, wait_for_media
from osbuild.agent.seed.refused import Refused
from osbuild.agent.seed.report import Report, announce, load, save
from osbuild.agent.seed.shown import forget, given, show
from osbuild.agent.seed.store import store, stored, supersede
from osbuild.agent.system import System

FULL = "free some space on /var"


def find(system: System, patience: float | None = None) -> int:
    """Choose the seed of this boot and show it to cloud-init. `patience` is how long to wait for a medium, seconds.

    A medium that is not needed is not waited for.
    """
    media = rule(system)
    known = stored(system) is not None or system.path(ON_ESP).is_dir()
    needed = not known or media is not Media.FIRST_BOOT
    wait = WAIT if patience is None else patience
    choice = choose(system, wait_for_media(system, wait if needed else 0.0), media)
    accepted = choice.accepted
    show(system, accepted)
    report = Report(
        source=accepted.source,
        digest=accepted.seed.digest,
        errors=choice.errors,
        warnings=[*accepted.warnings, *(unread(system) if accepted.source == DEFAULTS else ())],
        notes=choice.notes,
    )
    save(system, report)
    announce(system, report, Report())
    print(f"seed: {accepted.source}")
    return 0


def unread(system: System) -> list[str]:
    """What may have been meant as the seed of a node that has none."""
    found = [f"{device} is a config drive of OpenStack, which is not read" for device in media(system, OPENSTACK)]
    if system.path(ON_ESP).parent.joinpath("user-data").exists():
        found.append(f"user-data beside the folder `seed` of the {ESP} is not read: move it into that folder")
    return found


def apply(system: System) -> int:
    """Have cloud-init apply the seed, have the system take up what it wrote, and store it. 1 if nothing was applied.

    If cloud-init does not finish, it runs again with another seed, so that there are users. Only if it
    does not finish with the defaults either, the image is to blame.
    """
    before = load(system)
    report = replace(before, errors=[*before.errors], warnings=[*before.warnings])
    outcome = cloudinit.configure(system)
    applied = given(system)
    report.errors += outcome.errors
    report.warnings += outcome.warnings
    if outcome.finished and applied is not None:
        report.warnings += rendered_keys(system, applied)
    for accepted in () if outcome.finished else others(system):
        forget(system)
        show(system, accepted)
        outcome = cloudinit.configure(system)
        report.errors.append(f"configured from another seed instead: {accepted.source}")
        report.errors += [] if outcome.finished else outcome.errors
        report.source, report.digest, applied = accepted.source, accepted.seed.digest, None
        if outcome.finished:
            break
    report.configured = outcome.finished
    report.errors += changes.take_up(system)
    if applied is not None and report.source not in (DEFAULTS, STORED):
        try:
            keep(system, report.source)
        except OSError as error:
            report.errors.append(f"the seed is applied, but can't be stored: {error.strerror or error}; {FULL}")
    save(system, report)
    announce(system, report, before)
    return 0 if report.configured else 1


def others(system: System) -> Iterator[Accepted]:
    """What to configure the node from if cloud-init does not finish with the seed that was chosen."""
    seed = stored(system)
    if seed is not None and seed != given(system):
        with suppress(Refused):
            yield accept(seed, STORED)
    yield accept(defaults(system), DEFAULTS)


def keep(system: System, source: str) -> None:
    """Store the seed of this boot. A seed on the ESP that it has replaced does not count any more. Raises `OSError`."""
    seed = given(system)
    if seed is None:
        return
    store(system, seed)
    if source != ESP and system.path(ON_ESP).is_dir():
        try:
            supersede(system, read(system.path(ON_ESP)).digest)
        except Refused:
            return


def run_scripts(system: System) -> int:
    """Run the scripts of the seed, and report what went wrong. That is never the image's fault: always 0."""
    before = load(system)
    outcome = cloudinit.run_scripts(system)
    report = replace(before, errors=[*before.errors, *outcome.errors], warnings=[*before.warnings, *outcome.warnings])
    save(system, report)
    announce(system, report, before)
    return 0
