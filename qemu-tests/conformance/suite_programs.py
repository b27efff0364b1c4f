"""The programs of Kubernetes' own tests, compiled from its module: e2e.test, and agnhost, which their pods run."""

from pathlib import Path

from osbuild.config import upstream_versions
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.kubernetes import go_toolchain, upstream_programs

MODULE = Path(__file__).with_name("programs")
SUITE = go_toolchain.GoProgram(MODULE, "k8s.io/kubernetes/test/e2e", test=True)
AGNHOST = go_toolchain.GoProgram(MODULE, "k8s.io/kubernetes/test/images/agnhost")
VERSION = "v1.36.3"  # of the module k8s.io/kubernetes in programs/go.mod


def build_test_program(program: go_toolchain.GoProgram, cache: Cache) -> Path:
    """Return `SUITE` or `AGNHOST` for this host, from the cache or built. Raises `Error`."""
    architecture = Architecture.native()
    release = upstream_versions.find_release(VERSION)
    variables = tuple(line for line in upstream_programs.linker_variables(release) if line.startswith("k8s.io/"))
    program = go_toolchain.GoProgram(MODULE, program.package, variables, test=program.test)

    def make(path: Path) -> None:
        with log.step(f"compiling {program.package} {VERSION} (10 min on 2 cores if it is the first time)"):
            go_toolchain.build_program(program, path, architecture, cache)

    sources = go_toolchain.sources_key(MODULE)
    key = content_key("conformance", program.package, sources, go_toolchain.toolchain_key(), architecture, variables)
    return cache.get_or_make("kubernetes", key, make)
