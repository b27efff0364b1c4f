"""`python -m conformance`: run the tests, print and write what they have shown."""

import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from support.command_line import run_command

from conformance import container_images, suite_programs
from conformance.report import ConformanceReport, format_page, read_earlier, today
from conformance.runs import Suite, write_repositories
from conformance.specs import Verdict
from conformance.targets import NodeImage, booted_node, native_node
from osbuild.config.board import load_board
from osbuild.config.load import find_profile, load_profile
from osbuild.host import log, paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.output import write_output
from osbuild.host.scratch import remove_tree
from osbuild.inputs.build_manifest import Manifest
from osbuild.inputs.context import BuildContext
from osbuild.keys.development import signing_keys
from osbuild.pipeline.build import build_image
from osbuild.shared.errors import UsageError

RESULTS = paths.PROJECT / "build"
PAGE = paths.PROJECT / "docs/conformance.md"
NODES = {"machine": booted_node, "native": native_node}
OUTPUTS = {name: RESULTS / f"conformance-{name}.json" for name in NODES}


@dataclass(frozen=True, kw_only=True)
class ConformanceOptions:
    """The options of the command line."""

    focus: str
    minutes: int
    profile: str
    node: str
    processes: int
    resume: bool
    page: bool


@click.command()
@click.option("--focus", default="", metavar="REGEX", help="Only tests whose names match this.")
@click.option("--minutes", default=600, type=click.IntRange(1), show_default=True, help="End after so many minutes.")
@click.option("--profile", default="edge-server", show_default=True, help="The image, which has to be built.")
@click.option("--node", type=click.Choice(list(NODES)), default="native", show_default=True,
              help="A machine in QEMU, or the programs of the image in namespaces of this host.")  # fmt: skip
@click.option("--processes", default=4, type=click.IntRange(1, 32), show_default=True, help="Tests at the same time.")
@click.option("--resume", is_flag=True, help="Keep what has passed in earlier runs with this kind of node.")
@click.option(
    "--page/--no-page", default=False, help="Write docs/conformance.md, with the last results of each kind of node."
)
def command(**values: Any) -> int:
    """Run Kubernetes' conformance tests against a node. Status 1 if one fails."""
    options = ConformanceOptions(**values)
    try:
        re.compile(options.focus)
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}", where="--focus") from error
    image = find_image(options.profile)
    cache = Cache()
    program = suite_programs.build_test_program(suite_programs.SUITE, cache)
    archive = container_images.make_images(cache)
    folder = Path(tempfile.mkdtemp(prefix="edge-conformance-", dir="/var/tmp"))
    try:
        report = run_suite(options, image, folder, (program, archive))
    finally:
        keep_logs(folder)
        remove_tree(folder)
    write_output(OUTPUTS[options.node], (json.dumps(report.to_json(), indent=1) + "\n").encode())
    if options.page:
        write_output(PAGE, format_page(list(OUTPUTS.values())).encode())
    click.echo(report.summary())
    return 1 if report.select(Verdict.FAILED) else 0


def run_suite(
    options: ConformanceOptions, image: NodeImage, folder: Path, files: tuple[Path, Path]
) -> ConformanceReport:
    """Run the tests; `files` are e2e.test and the archive of container images. Raises `Error`."""
    program, archive = files
    begin = time.monotonic()
    with NODES[options.node](image, folder, archive) as target:
        shutil.copy(program, target.folder / "e2e.test")
        write_repositories(target.folder / "repositories.yaml")
        suite = Suite(target, str(target.inside / "e2e.test"), begin + 60 * options.minutes)
        path = OUTPUTS[options.node]
        earlier = read_earlier(path, target.description) if options.resume else None
        done = {one.name: one for one in earlier.results} if earlier else {}
        tests = [spec for spec in suite.list_tests(options.focus) if spec.name not in done]
        log.note(f"{len(tests)} tests" + (f", {len(done)} have results of earlier runs" if done else ""))
        suite.run_tests(tests, options.processes)
        results = [replace(one, image=image.root_hash) for one in suite.results.values()]
    return ConformanceReport(
        version=suite_programs.VERSION, profile=options.profile, target=target.description,
        focus=options.focus, date=today(), results=[*done.values(), *results],
        seconds=round(time.monotonic() - begin) + (earlier.seconds if earlier else 0),
        runs=1 + (earlier.runs if earlier else 0),
    )  # fmt: skip


def find_image(profile: str) -> NodeImage:
    """Return the image of a profile for this host's architecture, built if it is not up to date."""
    loaded = load_profile(find_profile(profile))
    board = load_board(str(Architecture.native()))
    folder = build_image(loaded, board, RESULTS, BuildContext(Cache()), keys=signing_keys()).folder
    return NodeImage(folder, profile, board, Manifest.read(folder).roothash)


def keep_logs(folder: Path) -> None:
    """Copy the logs of a run into build/conformance-logs/, in place of those of the last run."""
    logs = RESULTS / "conformance-logs"
    remove_tree(logs)
    logs.mkdir(parents=True)
    for path in [
        *folder.glob("*.log"),
        *folder.glob("run-*"),
        *folder.glob("files/run-*"),
        *folder.glob("files/logs/*"),
    ]:
        shutil.copy(path, logs)


def main() -> None:
    """Exit with 0 if no test fails, 1 if one does or an error occurs, 2 on wrong usage, 130 on Ctrl-C."""
    run_command(command, "python -m conformance")


if __name__ == "__main__":
    main()
