"""`edge-osbuild doctor`: what this host lacks, and the command to install it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from osbuild.cli.table import print_lines
from osbuild.host.cache import Cache
from osbuild.pipeline.doctor import HostCheck, diagnose_host, install_line, install_packages, missing_packages


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--fix", is_flag=True, help="Install missing packages (needs root).")
def command(as_json: bool, fix: bool) -> None:
    """Check whether this host can build and run images. The exit status is 1 if something required is missing."""
    checks = diagnose_host(Cache(), Path("build"))
    if fix and (packages := missing_packages(checks)):
        install_packages(packages)
        checks = diagnose_host(Cache(), Path("build"))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_lines(render_checks(checks).split("\n"))
    if any(check.required and not check.good for check in checks):
        sys.exit(1)


def render_checks(checks: Sequence[HostCheck]) -> str:
    """Return the results as a table, then the command that installs missing packages."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = "✓" if check.good else "✗" if check.required else "-"
        remedy = "" if check.good else check.fix or f"package {check.package}" if check.fix or check.package else ""
        optional = " (optional)" if not check.good and not check.required else ""
        lines.append(f"{mark} {check.name:{width}}  {check.detail}{optional}{' → ' + remedy if remedy else ''}")
    if packages := missing_packages(checks):
        lines += ["", "To install what is missing:", f"  {install_line(packages)}"]
    return "\n".join(lines)
