"""`edge-agent seed`: applies the seed at boot, shows the result, and replaces the seed of a running node."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from osbuild.agent.seed.report import load_report
from osbuild.agent.system import System


def arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    show = steps.add_parser("show", help="show the source of this node's seed, and its errors")
    show.add_argument("--json", action="store_true", help="print JSON")
    apply = steps.add_parser("apply", help="replace this node's seed, from the next boot on")
    apply.add_argument(
        "file", type=Path, metavar="FILE", help="a seed.iso, a folder with the files of a seed, or a block device"
    )
    apply.add_argument("--reboot", action="store_true", help="reboot now")
    find = steps.add_parser("find", help="choose the seed of this boot (runs at boot)")
    find.add_argument("--wait", type=float, metavar="SECONDS", help="how long to wait for a medium (default: 5)")
    steps.add_parser("configure", help="let cloud-init apply the seed, then store it (runs at boot)")
    steps.add_parser("scripts", help="run the scripts of the seed (runs at boot)")
    blame = steps.add_parser("blame", help="print the UNITS that the seed created, changed or configured")
    blame.add_argument("units", nargs="+", metavar="UNIT")


def main(options: argparse.Namespace) -> int:
    system = System()
    if options.step == "show":
        return show_seed(system, as_json=options.json)
    if options.step == "apply":
        return apply_file(system, options.file, reboot=options.reboot)
    if options.step == "blame":
        from osbuild.agent.seed import etc_changes

        units = etc_changes.seed_caused(system, options.units)
        print(*units, sep="\n", end="\n" if units else "")
        return 0
    from osbuild.agent.seed import boot_steps

    if options.step == "find":
        return boot_steps.find_seed(system, options.wait)
    return boot_steps.apply_seed(system) if options.step == "configure" else boot_steps.run_scripts(system)


def show_seed(system: System, *, as_json: bool) -> int:
    """Print the report of this boot. Returns 1 if the seed has errors."""
    report = load_report(system)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(f"seed: {report.source or 'not chosen yet'}", *report.problem_lines(), *report.notes, sep="\n")
    return 1 if report.errors else 0


def apply_file(system: System, path: Path, *, reboot: bool) -> int:
    """Replace the seed of this node. Raises `Problem`."""
    from osbuild.agent import systemd
    from osbuild.agent.seed.replacement import replace_seed
    from osbuild.agent.update.context import need_root

    need_root()
    accepted = replace_seed(system, path)
    for line in accepted.warnings:
        print(f"seed warning: {line}")
    print("stored; it is applied at the next boot" + ("" if reboot else ": `sudo systemctl reboot`"))
    if reboot:
        systemd.reboot()
    return 0
