"""`python -m bench`: measure, print a table, write JSON."""

import importlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from support.command_line import run_command

from bench.figure import Measured, figures_table
from bench.site import BenchSite
from osbuild.cli.location import LOCATION
from osbuild.host import log, paths
from osbuild.host.cache import Cache
from osbuild.host.output import make_folder, output_path, write_output
from osbuild.host.scratch import remove_tree
from osbuild.host.version import read_version
from osbuild.shared.errors import Error
from osbuild.shared.quoting import escaped

# name -> (module of this package, one line of help), in the order in which they run: `warm` changes the image
MEASUREMENTS = {
    "cold": ("cold", "cold build against a plain mmdebstrap"),
    "foreign": ("foreign", "roots of other architectures against this host's own"),
    "emulated": ("emulated", "a root of another architecture against one that is fully emulated"),
    "size": ("size", "the compressed image and its largest parts"),
    "minimal": ("memory", "idle memory without Kubernetes"),
    "node": ("boot", "idle memory with Kubernetes, and two boots to Ready"),
    "k3s": ("k3s", "the same with K3s, if a release is available"),
    "nodes": ("nodes", "an agent node in 512 MB, and throughput between pods of two nodes against the plain link"),
    "boards": ("boards", "power-on to boot complete on every board"),
    "flash": ("flash", "writing an image, against dd with the same flush"),
    "download": ("download", "what a device downloads for small updates"),
    "install": ("install", "installing an update, against dd of the same bytes"),
    "switch": ("switch", "a pod's downtime when its node switches slots, against a reboot"),
    "rollback": ("rollback", "from the failure of a new version to the old one Ready"),
    "fleet": ("fleet", "the update server under load, against nginx"),
    "cuts": ("cuts", "power cuts that the tests have tried, and survived"),
    "warm": ("warm", "builds after no change, and after changes of a node's configuration and of one overlay file"),
}
GROUPS = {"updates": ("download", "install", "switch", "rollback", "cuts")}
RESULTS = paths.PROJECT / "build"


def measurement(site: BenchSite, name: str) -> Measured:
    """Make the measurement `name`. Raises `Error`."""
    measured: Measured = importlib.import_module(f"bench.{MEASUREMENTS[name][0]}").measure(site)
    return measured


def host() -> dict[str, object]:
    """Describe this host. Figures can only be compared within one run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "edge-osbuild": str(read_version()),
        "processors": os.cpu_count(), "machine": platform.machine(), "system": platform.platform(),
        "load": list(os.getloadavg()),
    }  # fmt: skip


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a folder for temporary files. Its removal never crosses into a file system that is still mounted in it."""
    folder = Path(tempfile.mkdtemp(prefix="edge-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        yield folder
    finally:
        remove_tree(folder)


def chosen_measurements(only: Sequence[str]) -> list[str]:
    """Return the measurements that `only` names, directly or as a group, in the order they run; all if it is empty."""
    names = {member for name in only for member in GROUPS.get(name, (name,))}
    return [name for name in MEASUREMENTS if not only or name in names]


def epilog() -> str:
    """Return one line for each measurement and group, for the help."""
    singles = {name: help for name, (_, help) in MEASUREMENTS.items()}
    groups = {name: ", ".join(members) for name, members in GROUPS.items()}
    return "\n\n".join(f"{name}: {text}" for name, text in {**singles, **groups}.items())


@click.command(epilog=epilog())
@click.option(
    "--only", type=click.Choice([*MEASUREMENTS, *GROUPS]), multiple=True, help="Measure just this; may be repeated."
)
@click.option("--json", "output", type=LOCATION, default=RESULTS / "bench.json",
              help="Where to write the figures.  [default: build/bench.json]")  # fmt: skip
def command(only: tuple[str, ...], output: Path) -> int:
    """Measure builds, sizes, memory, boots, updates. A figure over its target is shown as such, and is no failure."""
    make_folder(RESULTS)
    output_path(output)  # reports an output that can't be written now, not after hours
    metadata = {"host": host()}
    measurements: dict[str, Measured] = {}
    failed = False
    begin = time.monotonic()
    with scratch() as folder:
        site = BenchSite(folder, RESULTS, Cache())
        for name in chosen_measurements(only):
            with log.step(MEASUREMENTS[name][1]):
                try:
                    measurements[name] = measurement(site, name)
                except Error as error:  # the figures of the others are still useful
                    log.error(error)
                    failed = True
    seconds = round(time.monotonic() - begin, 1)
    results = {name: measured.to_json() for name, measured in measurements.items()}
    write_output(output, (json.dumps({**metadata, "seconds": seconds, "measured": results}, indent=1) + "\n").encode())
    print_report(list(measurements.values()), output, seconds)
    return 1 if failed else 0


def print_report(measurements: list[Measured], output: Path, seconds: float) -> None:
    """Print the table, and below it the meaning of each figure."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    console.print(figures_table(measurements))
    for measured in measurements:
        console.print("\n" + measured.meaning, markup=False, style="dim")
        for line in measured.notes:
            console.print(line, markup=False)
    console.print(f"\n{escaped(paths.display_path(output))} was written; all of it took {seconds:.0f} s", markup=False)


def main() -> None:
    """Exit with 0 if everything was measured, 1 if a measurement failed, 2 on wrong usage, 130 on Ctrl-C."""
    run_command(command, "python -m bench")


if __name__ == "__main__":
    main()
