"""The steps of a boot: choose the seed, let cloud-init apply it, then store it.

The seed is stored last, so that the node gets its users even if the data partition is damaged or full.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from osbuild.agent.seed import cloud_init, etc_changes
from osbuild.agent.seed.accepted import AcceptedSeed, accept_seed, template_warnings
from osbuild.agent.seed.choose import DEFAULTS, ESP, ON_ESP, STORED, Media, choose_seed, default_seed, read_media_rule
from osbuild.agent.seed.cloud_init_folder import chosen_seed, remove_cloud_init_state, write_for_cloud_init
from osbuild.agent.seed.media import OPENSTACK, WAIT, find_media, wait_for_media
from osbuild.agent.seed.report import SeedReport, announce_report, load_report, save_report
from osbuild.agent.seed.store import store_seed, stored_seed, supersede
from osbuild.agent.system import System
from osbuild.shared.seed.files import read_seed
from osbuild.shared.seed.refused import SeedRefused

FULL_HINT = "free some space on /var"


def find_seed(system: System, patience: float | None = None) -> int:
    """Choose the seed of this boot and write it for cloud-init. Always returns 0.

    `patience` is the time in seconds to wait for a medium, if one is needed.
    """
    media = read_media_rule(system)
    has_seed = stored_seed(system) is not None or system.path(ON_ESP).is_dir()
    needed = not has_seed or media is not Media.FIRST_BOOT
    wait = WAIT if patience is None else patience
    choice = choose_seed(system, wait_for_media(system, wait if needed else 0.0), media)
    accepted = choice.accepted
    write_for_cloud_init(system, accepted)
    report = SeedReport(
        source=accepted.source,
        digest=accepted.seed.digest,
        errors=choice.errors,
        warnings=[*accepted.warnings, *(unused_seed_warnings(system) if accepted.source == DEFAULTS else ())],
        notes=choice.notes,
    )
    save_report(system, report)
    announce_report(system, report, SeedReport())
    print(f"seed: {accepted.source}")
    return 0


def unused_seed_warnings(system: System) -> list[str]:
    """Warnings about files that may have been meant as the seed of a node without a seed."""
    warnings = [
        f"{device} is a config drive of OpenStack, which is not supported" for device in find_media(system, OPENSTACK)
    ]
    if system.path(ON_ESP).parent.joinpath("user-data").exists():
        warnings.append(f"user-data on the {ESP} is not read; move it into the folder `seed`")
    return warnings


def apply_seed(system: System) -> int:
    """Let cloud-init apply the seed, reload changed configuration, and store the seed. Returns 1 if none was applied.

    If cloud-init does not finish, it runs again with another seed, so that there are users. If it does not finish even
    with the defaults, the image is at fault.
    """
    before = load_report(system)
    report = replace(before, errors=[*before.errors], warnings=[*before.warnings])
    result = cloud_init.run_local_stage(system)
    applied = chosen_seed(system)
    report.errors += result.errors
    report.warnings += result.warnings
    if result.finished and applied is not None:
        report.warnings += template_warnings(system, applied)
    for accepted in () if result.finished else other_seeds(system):
        remove_cloud_init_state(system)
        write_for_cloud_init(system, accepted)
        result = cloud_init.run_local_stage(system)
        report.errors.append(f"another seed was used instead: {accepted.source}")
        report.errors += [] if result.finished else result.errors
        report.source, report.digest, applied = accepted.source, accepted.seed.digest, None
        if result.finished:
            break
    report.configured = result.finished
    report.errors += etc_changes.apply_etc_changes(system)
    if applied is not None and report.source not in (DEFAULTS, STORED):
        try:
            store_chosen(system, report.source)
        except OSError as error:
            report.errors.append(f"the seed is applied, but cannot be stored: {error.strerror or error}; {FULL_HINT}")
    save_report(system, report)
    announce_report(system, report, before)
    return 0 if report.configured else 1


def other_seeds(system: System) -> Iterator[AcceptedSeed]:
    """The seeds to try if cloud-init does not finish with the chosen one: the stored seed, then the defaults."""
    seed = stored_seed(system)
    if seed is not None and seed != chosen_seed(system):
        with suppress(SeedRefused):
            yield accept_seed(seed, STORED)
    yield accept_seed(default_seed(system), DEFAULTS)


def store_chosen(system: System, source: str) -> None:
    """Store the seed of this boot. A seed on the ESP that it replaces is ignored from now on. Raises `OSError`."""
    seed = chosen_seed(system)
    if seed is None:
        return
    store_seed(system, seed)
    if source != ESP and system.path(ON_ESP).is_dir():
        try:
            supersede(system, read_seed(system.path(ON_ESP)).digest)
        except SeedRefused:
            return


def run_scripts(system: System) -> int:
    """Run the scripts of the seed and report their errors. Returns 0: such errors are not faults of the image."""
    before = load_report(system)
    result = cloud_init.run_scripts(system)
    report = replace(before, errors=[*before.errors, *result.errors], warnings=[*before.warnings, *result.warnings])
    save_report(system, report)
    announce_report(system, report, before)
    return 0
