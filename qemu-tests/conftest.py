"""Fixtures of the tests that boot: built images, QEMU, a small kernel, and machines whose console logs are kept."""

import lzma
import os
import re
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import distributions, groups, matrix, scheduling
from support.cable import CARD, SERVER, Cable
from support.devices import Device, Lab, switch_off
from support.distributions import DistributionUnderTest
from support.faulty_server import Site
from support.ledger import Ledger, MatrixCase
from support.machines import MachineFactory
from support.nodes import BOOT, CONNECT, LARGER_DISK, LOGS_FOLDER, MEMBER, USER, ServerNode, make_seed
from support.two_nodes import NodeFactory
from support.versions import Versions

from osbuild.config import load as profiles
from osbuild.config.board import Board, load_board
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.host.run import run_command
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import PackageArchive, stored_path
from osbuild.keys.development import signing_keys
from osbuild.pipeline.build import build_image
from osbuild.qemu.acceleration import Accelerator, choose_accelerator
from osbuild.qemu.config import DirectKernel, MachineConfig, MachineNetwork
from osbuild.qemu.emulator import Emulator, find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.serial import last_lines, strip_controls
from osbuild.qemu.ssh import KeyPair

# A shell's background jobs ignore Ctrl-C, and every program under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

BUILD = paths.PROJECT / "build"
LOGS = pytest.StashKey[list[Path]]()
SAVED_DEVICES = pytest.StashKey[list[Device]]()  # of the newest `lab`
MEDIUM_SIZE = 2 * 2**20  # bytes; QEMU does not notice that a medium grows
CLUSTER_MACHINES = pytest.StashKey[list[Machine]]()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(scheduling)


def pytest_addoption(parser: pytest.Parser) -> None:
    names = ", ".join(board.name for board in matrix.emulated_boards())
    text = f"board whose images are booted: {names}, or {matrix.ALL}; may be repeated (default: {matrix.FULL})"
    parser.addoption("--board", action="append", metavar="NAME", help=text)
    parser.addoption("--cuts", type=int, default=8, metavar="N", help="power cuts at moments by chance (default: 8)")
    text = "boot what was built there (default: what `build` has, built again if it is not up to date)"
    parser.addoption("--images", type=Path, metavar="FOLDER", help=text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses a board, directly or through a fixture, once for each requested board.

    A test that uses a distribution of Kubernetes also runs once for each distribution.
    """
    if "distribution" in metafunc.fixturenames:
        metafunc.parametrize("distribution", distributions.ALL, indirect=True, scope="session")
    if "board" not in metafunc.fixturenames:
        return
    names = metafunc.config.getoption("--board") or [matrix.FULL]
    boards = matrix.emulated_boards() if matrix.ALL in names else [load_board(name) for name in dict.fromkeys(names)]
    module, test = metafunc.module.__name__.rpartition(".")[2], metafunc.definition.originalname
    values = []
    for board in boards:
        reason = matrix.obstacle(board, module, test)
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        marks += [] if matrix.quick(board, module, test) else [pytest.mark.slow]
        values.append(pytest.param(board, id=board.name, marks=marks))
    metafunc.parametrize("board", values, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """After the last test of a group, switch off its machines, which would slow down other tests."""
    yield
    if nextitem and groups.group_of(nextitem) != groups.group_of(item):
        devices: list[Device] = item.session.stash.get(SAVED_DEVICES, [])
        switch_off([device.machine for device in devices])
        machines: list[Machine] = item.session.stash.get(CLUSTER_MACHINES, [])
        switch_off(machines)


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest) -> Board:
    """The board under test, for all fixtures below."""
    board: Board = request.param
    return board


@pytest.fixture(scope="session")
def distribution(request: pytest.FixtureRequest, board: Board) -> DistributionUnderTest:
    """The distribution of Kubernetes under test. Skips with a reason if its release is not available."""
    selected = distributions.ALL[request.param]
    if reason := selected.missing(board.architecture):
        pytest.skip(reason)
    return selected


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> Callable[[str | Path, Board], Path]:
    """Returns the build folder of a profile for a board, built if it is not up to date.

    With `--images`, the build in that folder is used as it is; if it is missing, the test fails with a command to run.
    """

    def folder(profile: str | Path, board: Board) -> Path:
        loaded = profiles.load_profile(profiles.find_profile(profile))
        built: Path | None = request.config.getoption("--images")
        if built is None:
            return build_image(loaded, board, BUILD, BuildContext(Cache()), keys=signing_keys()).folder
        path = built.absolute() / f"{loaded.profile.name}-{loaded.profile.version}-{board.name}"
        if not (path / "disk.img").is_file():
            command = f"edge-osbuild build {profile} --board {board.name} -o {built}"
            pytest.fail(f"{paths.display_path(path)} has no disk.img: run `{command}`", pytrace=False)
        return path

    return folder


@pytest.fixture(scope="session")
def image(images: Callable[[str | Path, Board], Path], board: Board) -> Callable[[str | Path], Path]:
    """Returns the build folder of a profile for the board under test."""
    return lambda profile: images(profile, board)


@pytest.fixture(scope="session")
def cluster_profile(distribution: DistributionUnderTest) -> Callable[[str, Board], Path]:
    """Returns the path of a shipped profile with the distribution under test, for a board."""
    return lambda name, board: distributions.profile_for(
        name, distribution, board.architecture, BUILD / "test-profiles"
    )


@pytest.fixture(scope="module")
def node_factory(
    request: pytest.FixtureRequest, distribution: DistributionUnderTest,
    cluster_profile: Callable[[str, Board], Path], images: Callable[[str | Path, Board], Path], key: KeyPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> NodeFactory:  # fmt: skip
    """Boots a server and its agent nodes for the tests of a module."""
    folder = tmp_path_factory.mktemp("seeds") / request.module.__name__.rpartition(".")[2].removeprefix("test_")
    folder.mkdir()
    return NodeFactory(distribution, cluster_profile, images, key, folder)


@pytest.fixture(scope="session")
def cluster_cable() -> Cable:
    """The cable from `cluster_node` to an agent node."""
    return Cable.lay()


@pytest.fixture(scope="session")
def cluster_node(
    request: pytest.FixtureRequest, distribution: DistributionUnderTest, image: Callable[[str | Path], Path],
    board: Board, qemu: Emulator, accelerator: Accelerator, key: KeyPair, tmp_path_factory: pytest.TempPathFactory,
    cluster_cable: Cable,
) -> Iterator[ServerNode]:  # fmt: skip
    """A node of `edge-server` after its first boot without a network, which it gets once it is healthy.

    `test_cluster` and the modules after it use it, because a first boot under emulation takes minutes.
    """
    profile = distributions.profile_with_chart(distribution, board.architecture, BUILD / "test-profiles")
    users = [{"name": MEMBER, "groups": ["kubernetes"], "shell": "/bin/bash"}]
    medium = tmp_path_factory.mktemp("seed") / "seed.iso"

    def write_seed(*settings: str) -> None:
        make_seed(profile, "site-1", key, medium, user_data={"users": users}, settings=settings)
        os.truncate(medium, MEDIUM_SIZE)

    write_seed()
    disk = image(profile) / "disk.img"
    config = MachineConfig(
        board=board, image=disk, memory=3 * 2**30, disk_size=disk.stat().st_size + LARGER_DISK, media=(medium,),
        network=None, extra=cluster_cable.arguments(SERVER),
    )  # fmt: skip
    log = LOGS_FOLDER / f"cluster-{distribution.name}-{board.name}.log"
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
        request.session.stash.setdefault(CLUSTER_MACHINES, []).append(machine)
        machine.qmp("set_link", name=CARD, up=False)
        machine.console.wait_for(r"edge-osbuild: boot complete: edge-server\S* \S+ slot a ", BOOT)
        machine.plug_network(MachineNetwork(restrict=True))
        guest = machine.guest(USER, key)
        guest.wait_ready(CONNECT)
        yield ServerNode(machine, guest, write_seed)


@pytest.fixture(scope="session")
def qemu(board: Board) -> Emulator:
    """Debian's QEMU in a tools tree."""
    return find_emulator(board.architecture)


@pytest.fixture(scope="session")
def accelerator(board: Board, qemu: Emulator) -> Accelerator:
    return choose_accelerator(board, wrap=qemu.wrap, root=qemu.root)


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """An SSH key for this run of the tests; its public half is part of the seeds."""
    return KeyPair.generate(tmp_path_factory.mktemp("ssh"))


@pytest.fixture(scope="session")
def versions(board: Board) -> Versions:
    """The versions for tests of updates, built on demand."""
    return Versions(board)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server from which bundles are downloaded, and which health checks have to reach."""
    with Site(tmp_path_factory.mktemp("www")) as site:
        yield site


@pytest.fixture(scope="session")
def lab(
    request: pytest.FixtureRequest, versions: Versions, site: Site, key: KeyPair, accelerator: Accelerator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Lab:  # fmt: skip
    """Makes devices under test."""
    lab = Lab(versions, site, key, accelerator, tmp_path_factory.mktemp("lab"))
    request.session.stash[SAVED_DEVICES] = lab.saved
    return lab


@pytest.fixture(scope="session")
def light(lab: Lab) -> Iterator[Device]:
    """A device without a cluster, whose saved good state many tests start from (`Device.restore`)."""
    with lab.ready("light", "light") as device:
        lab.save(device)
        yield device


@pytest.fixture(scope="session")
def server(lab: Lab, distribution: DistributionUnderTest) -> Iterator[Device]:
    """A device with a cluster, saved with N+1 in the other slot, so that installing versions downloads little."""
    if reason := distribution.missing(lab.versions.board.architecture, 2):
        pytest.skip(reason)
    with lab.ready(distribution.flavour, distribution.flavour) as device:
        device.install(device.publish("next"), "--no-switch")
        lab.save(device)
        yield device


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """Records cases of the failure matrix."""
    return Ledger()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk image of 32 MiB with an empty partition table."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"\0" * 510 + b"\x55\xaa")
    os.truncate(path, 32 * 2**20)
    return path


@pytest.fixture
def machine(request: pytest.FixtureRequest, qemu: Emulator, accelerator: Accelerator) -> Iterator[MachineFactory]:
    logs = request.node.stash.setdefault(LOGS, [])
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    with ExitStack() as stack:

        def power_on(config: MachineConfig) -> Machine:
            log = LOGS_FOLDER / (f"{name}-{len(logs) + 1}.log" if logs else f"{name}.log")
            logs.append(log)
            qemu_machine = Machine(config, log=log, emulator=qemu, accelerator=accelerator)
            return stack.enter_context(qemu_machine)

        yield power_on


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of each console log with a failed test, and record tests that are cases of the failure matrix."""
    report = yield
    if report.when == "call" and not report.skipped and (mark := item.get_closest_marker("matrix")):
        case = re.sub(r"[^\w.-]+", "-", item.name.removeprefix("test_")).strip("-")[:120]
        Ledger().write_entry(MatrixCase(str(mark.args[0]), case, report.passed, round(report.duration, 1)))
    if report.failed:
        for log in item.stash.get(LOGS, []):
            if log.exists():
                text = last_lines(strip_controls(log.read_text(errors="replace")))
                report.sections.append((f"console: {paths.display_path(log)}", text))
    return report


@dataclass(frozen=True)
class DebianKernel:
    """Debian's kernel for a machine with virtio, and the serial port of its console."""

    package: str
    console: str


DEBIAN_KERNELS = {
    Architecture.x86_64: DebianKernel("linux-image-cloud-amd64", "ttyS0"),
    Architecture.arm64: DebianKernel("linux-image-cloud-arm64", "ttyAMA0"),
    Architecture.armv7: DebianKernel("linux-image-armmp", "ttyAMA0"),
}


@pytest.fixture(scope="session")
def kernel(board: Board) -> DirectKernel:
    """Debian's kernel with a shell on the serial console, for tests that need a guest but not an image."""
    cache, plain = Cache(), DEBIAN_KERNELS[board.architecture]
    archive = PackageArchive(cache, board.architecture)
    if not (archive.root / "var/lib/apt/lists").exists():
        archive.update_index()
    debs = archive.resolve_packages([plain.package, "busybox-static"])
    packages = [deb for deb in debs if re.match(r"linux-image-\d|busybox-static$", deb.name)]
    init = INIT.replace("ttyS0", plain.console)

    def make(path: Path) -> None:
        path.mkdir()
        archive.download_packages(packages)
        for deb in packages:
            run_command(["dpkg-deb", "-x", stored_path(cache, deb), path / "root"])
        (path / "initrd").write_bytes(_initrd(path / "root", init))
        next((path / "root/boot").glob("vmlinuz-*")).rename(path / "vmlinuz")
        run_command(["rm", "-r", path / "root"])

    folder = cache.get_or_make("test-kernel", content_key(init, MODULES, [deb.sha256 for deb in packages]), make)
    return DirectKernel(folder / "vmlinuz", folder / "initrd", f"console={plain.console} panic=-1 quiet")


# In order of dependency; modules that the kernel has built in are skipped.
MODULES = (
    *("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
    *("failover", "net_failover", "virtio_net"),
)
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
stty -F /dev/ttyS0 -echo
echo READY
exec setsid -c sh -c 'PS1= exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
"""


def _initrd(root: Path, init: str) -> bytes:
    modules = {path.name.partition(".")[0]: path for path in root.rglob("*.ko*")}
    present = [name for name in MODULES if name in modules]
    entries = [(name, 0o40755, b"") for name in ("bin", "proc", "sys", "dev", "modules")]
    entries.append(("init", 0o100755, init.encode()))
    entries.append(("bin/busybox", 0o100755, (root / "usr/bin/busybox").read_bytes()))
    entries.append(("modules/order", 0o100644, "\n".join(present).encode()))
    for name in present:
        data = modules[name].read_bytes()
        entries.append((f"modules/{name}.ko", 0o100644, lzma.decompress(data) if data[:6] == b"\xfd7zXZ\0" else data))
    return _cpio(entries)


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """Return a "newc" archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
