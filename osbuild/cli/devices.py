"""`edge-osbuild devices`: list disks and cards, and why one is refused."""

import json

import click

from osbuild.cli.table import align_columns, print_lines
from osbuild.flash.block_device import BlockDevice, Host
from osbuild.flash.device_usage import list_usages, refuse_device
from osbuild.shared.sizes import format_decimal

HIDDEN = ("ram", "zram", "dm", "md")  # made by this system of memory or of other devices


@click.command(short_help="list disks and cards, and the reason if one is refused")
@click.option("--all", "everything", is_flag=True, help="Also show partitions, empty drives and unused loop devices.")
@click.option("--json", "as_json", is_flag=True, help="Print the devices as JSON; sizes are in bytes.")
def command(everything: bool, as_json: bool) -> None:
    """List block devices, and the reason if `edge-osbuild flash` refuses to write to one."""
    host = Host()
    devices = [device for device in host.list_devices() if everything or is_shown(device)]
    if as_json:
        click.echo(json.dumps([device_json(host, device) for device in devices], indent=2))
    elif devices:
        print_lines(align_columns([device_row(host, device) for device in devices], right=(1,)))
    else:
        click.echo("no disk or card was found; --all also shows other devices")


def is_shown(device: BlockDevice) -> bool:
    """Whether the device is a whole disk that is not empty, on a bus that is not hidden."""
    return device.disk is None and device.size > 0 and device.bus not in HIDDEN


def device_row(host: Host, device: BlockDevice) -> tuple[str, str, str, str, str, str]:
    """Return the columns of one device."""
    refusal = refuse_device(host, device)
    kind = "removable" if device.removable else ""
    name = device.model or device.backing or ""
    return (
        str(device.path),
        format_decimal(device.size),
        device.bus,
        kind,
        name,
        f"refused: {refusal.reason}" if refusal else "free",
    )


def device_json(host: Host, device: BlockDevice) -> dict[str, object]:
    """Return one device as JSON values."""
    refusal = refuse_device(host, device)
    return {
        "path": str(device.path), "size": device.size, "sector": device.sector, "model": device.model,
        "serial": device.serial, "bus": device.bus, "removable": device.removable, "read_only": device.read_only,
        "disk": device.disk, "partitions": list(device.partitions), "backing": device.backing,
        "uses": [{"kind": use.kind, "device": use.device, "what": use.user} for use in list_usages(host, device)],
        "refused": {"reason": refusal.reason, "hint": refusal.hint} if refusal else None,
    }  # fmt: skip
