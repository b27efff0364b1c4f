"""A boot's way with the seed: choose it, have cloud-init apply it, then store it.

Applying comes first: whatever is wrong with a file, a medium or the data partition, the node gets its users.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from osbuild.agent.seed import cloud_init, etc_changes
from osbuild.agent.seed.accepted import AcceptedSeed, accept_seed, template_warnings
from osbuild.agent.seed.choose import DEFAULTS, ESP, ON_ESP, STORED, Media, choose_seed, default_seed, read_media_rule
from osbuild.agent.seed.cloud_init_folder import given_seed, remove_cloud_init_state, show_seed
from osbuild.agent.seed.media import OPENSTACK, WAIT, find_media, wait_for_media
from osbuild.agent.seed.report import SeedReport, announce_report, load_report, save_report
from osbuild.agent.seed.store import store_seed, stored_seed, supersede
from osbuild.agent.system import System
from osbuild.shared.seed.files import read_seed
from osbuild.shared.seed.refused import SeedRefused

FULL_HINT = "free some space on /var"


def find_seed(system: System, patience: float | None = None) -> int:
    """Choose the seed of this boot and show it to cloud-init. `patience` is how long to wait for a medium, seconds.

    A medium that is not needed is not waited for.
    """
    media = read_media_rule(system)
    known = stored_seed(system) is not None or system.path(ON_ESP).is_dir()
    needed = not known or media is not Media.FIRST_BOOT
    wait = WAIT if patience is None else patience
    choice = choose_seed(system, wait_for_media(system, wait if needed else 0.0), media)
    accepted = choice.accepted
    show_seed(system, accepted)
    report = SeedReport(
        source=accepted.source,
        digest=accepted.seed.digest,
        errors=choice.errors,
        warnings=[*accepted.warnings, *(unread(system) if accepted.source == DEFAULTS else ())],
        notes=choice.notes,
    )
    save_report(system, report)
    announce_report(system, report, SeedReport())
    print(f"seed: {accepted.source}")
    return 0


def unread(system: System) -> list[str]:
    """What may have been meant as the seed of a node that has none."""
    found = [f"{device} is a config drive of OpenStack, which is not read" for device in find_media(system, OPENSTACK)]
    if system.path(ON_ESP).parent.joinpath("user-data").exists():
        found.append(f"user-data beside the folder `seed` of the {ESP} is not read: move it into that folder")
    return found


def apply_seed(system: System) -> int:
    """Have cloud-init apply the seed, have the system take up what it wrote, and store it. 1 if nothing was applied.

    If cloud-init does not finish, it runs again with another seed, so that there are users. Only if it
    does not finish with the defaults either, the image is to blame.
    """
    before = load_report(system)
    report = replace(before, errors=[*before.errors], warnings=[*before.warnings])
    outcome = cloud_init.run_local_stage(system)
    applied = given_seed(system)
    report.errors += outcome.errors
    report.warnings += outcome.warnings
    if outcome.finished and applied is not None:
        report.warnings += template_warnings(system, applied)
    for accepted in () if outcome.finished else other_seeds(system):
        remove_cloud_init_state(system)
        show_seed(system, accepted)
        outcome = cloud_init.run_local_stage(system)
        report.errors.append(f"configured from another seed instead: {accepted.source}")
        report.errors += [] if outcome.finished else outcome.errors
        report.source, report.digest, applied = accepted.source, accepted.seed.digest, None
        if outcome.finished:
            break
    report.configured = outcome.finished
    report.errors += etc_changes.apply_etc_changes(system)
    if applied is not None and report.source not in (DEFAULTS, STORED):
        try:
            store_given(system, report.source)
        except OSError as error:
            report.errors.append(f"the seed is applied, but can't be stored: {error.strerror or error}; {FULL_HINT}")
    save_report(system, report)
    announce_report(system, report, before)
    return 0 if report.configured else 1


def other_seeds(system: System) -> Iterator[AcceptedSeed]:
    """What to configure the node from if cloud-init does not finish with the seed that was chosen."""
    seed = stored_seed(system)
    if seed is not None and seed != given_seed(system):
        with suppress(SeedRefused):
            yield accept_seed(seed, STORED)
    yield accept_seed(default_seed(system), DEFAULTS)


def store_given(system: System, source: str) -> None:
    """Store the seed of this boot. A seed on the ESP that it has replaced does not count any more. Raises `OSError`."""
    seed = given_seed(system)
    if seed is None:
        return
    store_seed(system, seed)
    if source != ESP and system.path(ON_ESP).is_dir():
        try:
            supersede(system, read_seed(system.path(ON_ESP)).digest)
        except SeedRefused:
            return


def run_scripts(system: System) -> int:
    """Run the scripts of the seed, and report what went wrong. That is never the image's fault: always 0."""
    before = load_report(system)
    outcome = cloud_init.run_scripts(system)
    report = replace(before, errors=[*before.errors, *outcome.errors], warnings=[*before.warnings, *outcome.warnings])
    save_report(system, report)
    announce_report(system, report, before)
    return 0
