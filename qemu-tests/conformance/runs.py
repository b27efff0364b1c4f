"""Runs of e2e.test: several processes, each with some tests at a time. A test that waits for a container image that the
node does not have is interrupted.
"""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conformance import container_images
from conformance.report import LATE
from conformance.specs import (
    REGISTRY,
    SpecReport,
    SpecResult,
    Verdict,
    focus_expression,
    judge_spec,
    read_report,
)
from conformance.targets import TestTarget
from osbuild.host import log
from osbuild.shared.errors import Error

BATCH = 12  # tests of one process, which needs some seconds to start
ATTEMPTS = 2  # a test that fails beside others runs once more alone
STARTS = 3  # processes that are started for tests if none of the processes runs any of them
NOT_STARTED = "e2e.test ended before this test began: read build/conformance-logs"
POLL = 4.0  # seconds between looks at the pods
GRACE = 60.0  # seconds for the cleanup of an interrupted test
STUCK = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull")
RUN_ID = re.compile(r'Starting e2e run "([0-9a-f-]+)"')
REPOSITORIES = (
    "promoterE2eRegistry", "buildImageRegistry", "gcEtcdRegistry", "gcRegistry", "sigStorageRegistry",
    "privateRegistry", "dockerLibraryRegistry", "cloudProviderGcpRegistry",
)  # fmt: skip


def write_repositories(path: Path) -> None:
    """Write the file for KUBE_TEST_REPO_LIST: all images of the tests are in one registry."""
    path.write_text("".join(f"{name}: {REGISTRY}\n" for name in REPOSITORIES))


def stuck_images(objects: dict[str, Any], available: Sequence[str]) -> dict[str, str]:
    """Return, for each run of e2e.test (its identifier), an image for which a pod of the run waits in vain.

    `objects` is the output of `kubectl get pods,namespaces --output=json`.
    """
    runs = {
        item["metadata"]["name"]: item["metadata"].get("labels", {}).get("e2e-run")
        for item in objects["items"] if item["kind"] == "Namespace"
    }  # fmt: skip
    stuck: dict[str, str] = {}
    for pod in (item for item in objects["items"] if item["kind"] == "Pod"):
        run = runs.get(pod["metadata"]["namespace"])
        status = pod.get("status", {})
        for kind in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
            for container in status.get(kind, ()):
                image = container["image"]
                waits = container.get("state", {}).get("waiting", {}).get("reason") in STUCK
                if run and waits and image.startswith(f"{REGISTRY}/") and image not in available:
                    stuck.setdefault(run, image)
    return stuck


@dataclass
class SuiteProcess:
    """A running e2e.test."""

    process: subprocess.Popen[bytes]
    output: Path
    report: Path
    image: str | None = None
    """the missing image for which it was interrupted"""

    def run_id(self) -> str | None:
        match = RUN_ID.search(self.output.read_text(errors="replace")[:100_000])
        return match[1] if match else None

    def interrupt(self, image: str) -> None:
        if self.image is None:
            self.image = image
            self.process.send_signal(signal.SIGINT)


@dataclass
class Suite:
    """The conformance tests, run against a node until `deadline` (time.monotonic)."""

    target: TestTarget
    program: str
    deadline: float
    results: dict[str, SpecResult] = field(default_factory=dict)
    running: dict[int, SuiteProcess] = field(default_factory=dict)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arguments(self, report: str, focus: str) -> list[str]:
        """Return the command line of e2e.test for the specs that match `focus`."""
        inside = self.target.inside
        return self.target.command(
            "env", f"KUBE_TEST_REPO_LIST={inside}/repositories.yaml", "PATH=/usr/sbin:/usr/bin", self.program,
            "--provider=skeleton", f"--kubeconfig={self.target.kubeconfig}", f"--kubectl-path={self.target.kubectl}",
            f"--ginkgo.focus={focus}", f"--ginkgo.json-report={inside}/{report}", "--ginkgo.no-color",
            "--ginkgo.timeout=24h", "--disable-log-dump", "--num-nodes=1",
            # What must run before the tests is waited for already.
            "--minStartupPods=-1",
        )  # fmt: skip

    def list_tests(self, pattern: str) -> list[SpecReport]:
        """Return the conformance tests whose names match the regular expression `pattern`."""
        report = self.target.folder / "list.json"
        command = [*self.arguments(report.name, r"\[Conformance\]"), "--ginkgo.dry-run"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        specs = read_report(report)
        if not specs:
            raise Error(f"e2e.test lists no tests:\n{(result.stdout + result.stderr)[-2000:]}", where=self.program)
        return [spec for spec in specs if "[Conformance]" in spec.name and re.search(pattern, spec.name)]

    def run_tests(self, tests: Sequence[SpecReport], processes: int) -> None:
        """Run tests: those that may run beside others in several processes, then the others, then failed ones again."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        self._run_pool([spec.name for spec in tests if not spec.serial], processes)
        self._run_pool([spec.name for spec in tests if spec.serial], 1)
        for attempt in range(2, ATTEMPTS + 1):
            failed = [result for result in self.results.values() if result.verdict is Verdict.FAILED]
            if failed and time.monotonic() < self.deadline:
                log.note(f"{len(failed)} tests that failed run once more, alone")
                for result in failed:
                    del self.results[result.name]
                self._run_pool([result.name for result in failed], 1)
                for before in failed:
                    after = self.results.setdefault(before.name, before)
                    if after is not before:
                        self.results[before.name] = replace(after, attempts=attempt)
        for spec in tests:
            self.results.setdefault(spec.name, SpecResult(name=spec.name, verdict=Verdict.NOT_RUN, reason=LATE))

    def _run_pool(self, names: list[str], processes: int) -> None:
        pending = list(names)
        starts: dict[str, int] = {}

        def work() -> None:
            while time.monotonic() < self.deadline:
                with self.lock:
                    batch, pending[:BATCH] = pending[:BATCH], []
                if not batch:
                    return
                done = self._run_batch(batch)
                left = [name for name in batch if name not in done]
                with self.lock:
                    for name in left:
                        # Of a process that was interrupted for an image, at least one test has a result.
                        starts[name] = starts.get(name, 0) + (not done)
                        if starts[name] < STARTS or time.monotonic() > self.deadline:
                            pending.append(name)
                        else:
                            self.results[name] = SpecResult(name=name, verdict=Verdict.FAILED, reason=NOT_STARTED)

        threads = [threading.Thread(target=work) for _ in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run_batch(self, names: Sequence[str]) -> set[str]:
        """Run tests in one process, until the deadline, and return the names of those that have a result."""
        with self.lock:
            self.count += 1
            number = self.count
        output, report = (self.target.folder / f"run-{number}.{suffix}" for suffix in ("log", "json"))
        with output.open("wb") as file:
            command = self.arguments(report.name, focus_expression(names))
            process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
            run = SuiteProcess(process, output, report)
            self.running[number] = run
            try:
                wait_until(process, self.deadline)
            finally:
                del self.running[number]
        done = set()
        for spec in read_report(report):
            if spec.name not in names:
                continue
            late = spec.state == "interrupted" and run.image is None
            result = None if late else judge_spec(spec, container_images.NAMES, run.image)
            if result:
                done.add(spec.name)
                with self.lock:
                    self.results[spec.name] = result
                    log.note(f"{len(self.results)}: {result.verdict}, {result.seconds:.0f} s: {result.name}"
                             + (f" ({result.reason[:200]})" if result.reason else ""))  # fmt: skip
        return done

    def _watch(self) -> None:
        """Interrupt processes whose test waits for an image that the node does not have."""
        command = self.target.command(
            self.target.kubectl, f"--kubeconfig={self.target.kubeconfig}", "get", "pods,namespaces",
            "--all-namespaces", "--output=json", "--request-timeout=30s",
        )  # fmt: skip
        while True:
            time.sleep(POLL)
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode or not self.running:
                continue
            stuck = stuck_images(json.loads(result.stdout), container_images.NAMES)
            for run in list(self.running.values()):
                if image := stuck.get(run.run_id() or ""):
                    run.interrupt(image)


def wait_until(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for a process; at the deadline it is interrupted, and killed if it does not end."""
    for send, timeout in ((signal.SIGINT, deadline - time.monotonic()), (signal.SIGKILL, GRACE), (None, GRACE)):
        try:
            process.wait(max(1.0, timeout))
            return
        except subprocess.TimeoutExpired:
            if send is not None:
                process.send_signal(send)
