"""`edge-osbuild flash`: write an image to cards, disks or files."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from osbuild.cli.location import LOCATION
from osbuild.cli.options import as_object, parse_size_option
from osbuild.flash import job, node_seeds, seed_patch, source, target
from osbuild.flash.block_device import Host
from osbuild.flash.plan import TargetOrder, WritePlan, make_order, make_plan
from osbuild.flash.target import FlashTarget
from osbuild.flash.writer import TargetState
from osbuild.formats import gpt
from osbuild.host import log
from osbuild.host.cache import Cache
from osbuild.host.scratch import temporary_folder
from osbuild.pipeline.manifest import DEVELOPMENT, UNKNOWN_TRUST, trusts_development
from osbuild.seed.esp_seed import find_mtools
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.sizes import format_decimal


@dataclass(frozen=True, kw_only=True)
class FlashOptions:
    """The arguments and options of `edge-osbuild flash`."""

    image: Path
    targets: tuple[Path, ...]
    media: tuple[Path, ...]
    nodes: tuple[str, ...]
    profile: str | None
    settings: tuple[str, ...]
    bmap: Path | None
    no_bmap: bool
    size: int | None
    yes: bool
    as_json: bool


@click.command(short_help="write an image to cards, disks or files, and verify it")
@click.argument("image", type=LOCATION)
@click.argument("targets", nargs=-1, required=True, type=LOCATION, metavar="TARGET...")
@click.option("--seed", "media", multiple=True, type=LOCATION, metavar="ISO",
              help="Seed to write to the target; once per target, in the same order.")  # fmt: skip
@click.option("--node", "nodes", multiple=True, metavar="NAME",
              help="Node whose seed is made for the target; once per target, in the same order.")  # fmt: skip
@click.option(
    "--profile", metavar="PROFILE", help="Profile of the nodes. Default: the profile that the image was built from."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Override a key of the profile for the nodes, as in `edge-osbuild seed`.")  # fmt: skip
@click.option("--bmap", type=LOCATION, metavar="FILE",
              help="Block map of the image. Default: the block map beside the image.")  # fmt: skip
@click.option("--no-bmap", is_flag=True, help="Ignore the block map beside the image.")
@click.option(
    "--size",
    type=parse_size_option,
    metavar="SIZE",
    help="Size of a target that is a file. Default: the size of the image.",
)
@click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="Do not ask before overwriting data. Name disks by /dev/disk/by-id to avoid mistakes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result for each target as JSON.")
@as_object(FlashOptions)
def command(options: FlashOptions) -> int:
    """Write IMAGE to every TARGET: a disk, a card or a file.

    IMAGE is a build folder, or a disk image, which may be compressed (.zst, .xz, .gz, .bz2).

    The first block is written last, after everything else was read back, because a disk does not boot without it. If
    the command is interrupted or a card fails, run the command again: it continues where it stopped.
    """
    seeds = node_seeds.SeedSources(options.media, options.nodes, options.profile, options.settings)
    node_seeds.check_options(len(options.targets), seeds, bmap=options.bmap, no_bmap=options.no_bmap)
    image = source.find_image(options.image)
    plan = make_plan(
        image, source.choose_bmap(image, None if options.no_bmap else source.find_bmap(image, options.bmap))
    )
    warn_about_trust(plan)
    host = Host()
    targets = [target.find_target(path, host, size=options.size) for path in options.targets]
    check_targets(targets, plan, host)
    files = [node_seeds.read_seed_iso(path) for path in options.media] or node_seeds.render_nodes(image.path, seeds)
    orders = plan_orders(plan, targets, options.nodes or tuple(path.name for path in options.media), files)
    confirm_loss(plan, orders, yes=options.yes)
    if plan.bmap:
        count = f"{len(orders)} target{'s' if orders[1:] else ''}"
        log.note(f"writing {format_decimal(plan.bmap.mapped)} of {format_decimal(plan.bmap.size)} to {count}")
    outcomes = job.flash_targets(plan, orders)
    job.print_results(outcomes)
    if options.as_json:
        click.echo(json.dumps(job.results_json(plan, outcomes), indent=2))
    return 0 if all(outcome.state is TargetState.done for outcome in outcomes) else 1


def warn_about_trust(plan: WritePlan) -> None:
    """Warn of an image that trusts development keys, or may do so. Images of other systems have no slots."""
    trusted = trusts_development(plan.source.path)
    if trusted:
        log.warn(DEVELOPMENT)
    elif trusted is None and plan.table and any(part.type in gpt.ROOT.values() for part in plan.table.partitions):
        log.warn(UNKNOWN_TRUST)


def check_targets(targets: Sequence[FlashTarget], plan: WritePlan, host: Host) -> None:
    """Check all targets before any is written. Raises `Error` or `UsageError` for the first that must not be."""
    paths: dict[Any, Path] = {plan.source.path.resolve(): plan.source.path}
    for entry in targets:
        key = entry.device.number if entry.device else entry.path.resolve()
        if key in paths:
            raise UsageError(f"this is the same as {paths[key]}", where=str(entry.path), hint="name every target once")
        paths[key] = entry.path
        target.check_target(entry, plan.size, host)


def plan_orders(
    plan: WritePlan, targets: Sequence[FlashTarget], names: Sequence[str], files: Sequence[Mapping[str, bytes]]
) -> list[TargetOrder]:
    """Return an order for each target, with its own seed if there are seeds."""
    if not files:
        return [make_order(plan, flash_target, None, {}) for flash_target in targets]
    entry = seed_patch.find_esp(plan.table, plan.source)
    wrap = find_mtools(Cache())
    with temporary_folder("flash") as scratch, log.step("seeds"):
        copy = seed_patch.extract_esp(plan.source, entry, scratch / "esp")
        return [
            make_order(plan, flash_target, name, copy.changes(seed, wrap=wrap))
            for flash_target, name, seed in zip(targets, names, files, strict=True)
        ]


def confirm_loss(plan: WritePlan, orders: Sequence[TargetOrder], *, yes: bool) -> None:
    """Ask before data is lost. Raises `UsageError` without a terminal, and `Error` if the answer is no."""
    overwritten = [order for order in orders if order.target.exists]
    if yes or not overwritten:
        return
    if not sys.stdin.isatty():
        names = ", ".join(order.target.title for order in overwritten)
        raise UsageError(f"this would overwrite {names}", hint="give --yes to allow it: there is no terminal to ask on")
    log.note(f"{plan.source.path} will overwrite all of:")
    for order in overwritten:
        log.note(f"  {order.target.title}" + (f" for node {order.node}" if order.node else ""))
    if not click.confirm("Continue?", err=True):
        raise Error("nothing was written", hint="`edge-osbuild devices` lists all disks and cards")
