"""What results of Kubernetes' conformance tests mean, as far as no node is needed."""

import json
import re
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conformance import container_images
from conformance.report import LATE, ConformanceReport, format_page, read_earlier
from conformance.runs import stuck_images, write_repositories
from conformance.specs import (
    REGISTRY,
    SpecReport,
    SpecResult,
    Verdict,
    focus_expression,
    judge_spec,
    parse_report,
)
from conformance.targets import forward_kubeconfig

from osbuild.host.architecture import Architecture
from osbuild.kubernetes.image_archive import SmallImage, inspect_archive, write_image

NGINX = f"{REGISTRY}/nginx:1.27-0"


def spec(state: str, message: str = "", output: str = "") -> SpecReport:
    return SpecReport(name="a test", state=state, message=message, seconds=3.0, output=output, serial=False)


def report_of_ginkgo(**fields: Any) -> str:
    """A report like those of Ginkgo 2.28."""
    entry = {
        "ContainerHierarchyTexts": ["[sig-storage] Secrets"], "LeafNodeText": "should be consumable [Conformance]",
        "LeafNodeType": "It", "State": "passed", "RunTime": 4_200_000_000, **fields,
    }  # fmt: skip
    suite = {"ContainerHierarchyTexts": None, "LeafNodeText": "", "LeafNodeType": "SynchronizedBeforeSuite",
             "State": "passed", "RunTime": 0}  # fmt: skip
    return json.dumps([{"SuiteDescription": "Kubernetes e2e suite", "SpecReports": [suite, entry]}])


def judged(state: str, message: str = "", output: str = "", stuck: str | None = None) -> SpecResult:
    result = judge_spec(spec(state, message, output), container_images.NAMES, stuck)
    assert result
    return result


def test_a_report_has_names_times_and_messages_of_tests_only() -> None:
    (parsed,) = parse_report(report_of_ginkgo(State="failed", Failure={"Message": "no pod"}, CapturedStdOutErr="text"))
    assert parsed.name == "[sig-storage] Secrets should be consumable [Conformance]"
    assert (parsed.state, parsed.seconds, parsed.message, parsed.output) == ("failed", 4.2, "no pod", "text")


@pytest.mark.parametrize(
    "serial", [{"ContainerHierarchyTexts": ["Taints [Serial]"]}, {"LeafNodeText": "evicts pods [Serial] [Conformance]"}]
)
def test_a_serial_test_is_recognized(serial: dict[str, Any]) -> None:
    assert parse_report(report_of_ginkgo(**serial))[0].serial
    assert not parse_report(report_of_ginkgo())[0].serial


def test_another_document_is_not_a_report() -> None:
    with pytest.raises(ValueError, match="not a report"):
        parse_report('[{"name": "x"}]')


def test_passed_and_failed_are_what_ginkgo_says() -> None:
    assert judged("passed").verdict is Verdict.PASSED
    for state in ("failed", "panicked", "timedout", "aborted"):
        result = judged(state, "timed out waiting for the condition")
        assert (result.verdict, result.reason) == (Verdict.FAILED, "timed out waiting for the condition")


@pytest.mark.parametrize("state", ["skipped", "pending"])
def test_a_test_that_ginkgo_left_out_has_no_result(state: str) -> None:
    assert judge_spec(spec(state), container_images.NAMES) is None


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("failed", "Conformance requires at least two nodes"),
        ("skipped", "Requires at least 2 nodes (not 1)"),
        ("skipped", "The test requires at least two ready nodes on skeleton, but found 1"),
    ],
)
def test_a_test_for_two_nodes_is_not_run_on_one(state: str, message: str) -> None:
    assert judged(state, message) == SpecResult(
        name="a test", verdict=Verdict.NOT_RUN, reason="needs two nodes", seconds=3.0
    )


@pytest.mark.parametrize(
    "line",
    [
        f'Failed: Failed to pull image "{NGINX}": failed to resolve reference',
        f'BackOff: Back-off pulling image "{NGINX}"',
        f"message: 'Back-off pulling image \\\"{NGINX}\\\"'",
    ],
)
def test_a_test_that_fails_because_an_image_cannot_be_pulled_is_not_run_for_this_image(line: str) -> None:
    result = judged("failed", "timed out", f"At 12:00:00 - event for web: {{kubelet node}} {line}")
    assert (result.verdict, result.reason) == (Verdict.NOT_RUN, "needs the container image nginx:1.27-0")


def test_an_image_that_the_node_has_is_no_excuse_for_a_failure() -> None:
    output = f'Failed to pull image "{container_images.NAMES[0]}": no space left'
    assert judged("failed", "timed out", output).verdict is Verdict.FAILED


def test_a_test_that_was_interrupted_for_an_image_names_it() -> None:
    assert judged("interrupted", "Interrupted by User", stuck=NGINX).reason == "needs the container image nginx:1.27-0"
    # Another test of the same process that failed before was not interrupted.
    assert judged("failed", "no answer", stuck=NGINX).verdict is Verdict.FAILED


def test_a_test_that_skips_itself_says_why() -> None:
    result = judged("skipped", "Only supported for providers [gce]\nmore")
    assert (result.verdict, result.reason) == (Verdict.NOT_RUN, "skips itself: Only supported for providers [gce]")


def pod(namespace: str, image: str, reason: str, kind: str = "containerStatuses") -> dict[str, Any]:
    state = {"waiting": {"reason": reason}}
    return {"kind": "Pod", "metadata": {"namespace": namespace}, "status": {kind: [{"image": image, "state": state}]}}


@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_a_run_whose_pod_waits_for_a_missing_image_is_stuck(kind: str) -> None:
    def runs(*pods: dict[str, Any]) -> dict[str, str]:
        spaces = [
            {"kind": "Namespace", "metadata": {"name": "secrets-1", "labels": {"e2e-run": "run-1"}}},
            {"kind": "Namespace", "metadata": {"name": "kube-system"}},
        ]
        return stuck_images({"items": [*spaces, *pods]}, container_images.NAMES)

    assert runs(pod("secrets-1", NGINX, "ImagePullBackOff", kind)) == {"run-1": NGINX}
    assert runs(pod("secrets-1", NGINX, "ContainerCreating", kind)) == {}
    assert runs(pod("secrets-1", container_images.NAMES[0], "ErrImagePull", kind)) == {}
    assert runs(pod("kube-system", NGINX, "ErrImagePull", kind)) == {}
    # A test of images that do not exist is not about the images of the tests.
    assert runs(pod("secrets-1", "invalid.example/alpine:3", "ErrImagePull", kind)) == {}


def test_a_focus_matches_exactly_its_tests() -> None:
    names = ["[sig-storage] Secrets should (be) used [Conformance]", "a+b {c} | d.e $ ^"]
    expression = re.compile(focus_expression(names))
    assert all(expression.search(f"Kubernetes e2e suite {name}") for name in names)
    for other in (
        "Secrets should (be) used [Conformance]",
        f"{names[0]} twice",
        f"more {names[0]}",
        "a+b {c} | d_e $ ^",
    ):
        assert not expression.search(f"Kubernetes e2e suite {other}")


def test_every_image_of_the_tests_is_in_the_registry_that_does_not_exist(tmp_path: Path) -> None:
    write_repositories(tmp_path / "list.yaml")
    lines = (tmp_path / "list.yaml").read_text().splitlines()
    assert f"promoterE2eRegistry: {REGISTRY}" in lines and f"gcRegistry: {REGISTRY}" in lines
    assert all(line.endswith(f": {REGISTRY}") for line in lines)
    assert all(name.startswith(f"{REGISTRY}/") for name in container_images.NAMES)


def test_a_packed_root_has_only_links_that_it_lacks(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("usr/bin/sh", "etc/passwd", "var/lib/dpkg/status", "dev/null"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("of Debian")
    (root / "bin").symlink_to("usr/bin")
    layer = container_images.pack_root(root, {"usr/bin/sh": "busybox", "usr/bin/wget": "busybox"})
    with tarfile.open(fileobj=BytesIO(layer)) as archive:
        entries = {entry.name: entry for entry in archive}
        passwd = archive.extractfile("etc/passwd")
        assert passwd and passwd.read() == b"of Debian"
    assert entries["bin"].linkname == "usr/bin" and entries["usr/bin/wget"].linkname == "busybox"
    assert entries["usr/bin/sh"].isreg()
    assert not {"var/lib/dpkg/status", "dev/null"} & entries.keys()
    assert {entry.mtime for entry in entries.values()} == {0}


def test_each_image_has_a_maker() -> None:
    names = [name.removeprefix(f"{REGISTRY}/").partition(":")[0] for name in container_images.NAMES]
    assert names == [*container_images.MAKERS]


def test_the_report_counts_and_names_every_test() -> None:
    report = ConformanceReport(
        version="v1.36.3", profile="edge-server", target="a machine", focus="", date="today",
        seconds=60,
        results=[
            SpecResult(name="one", verdict=Verdict.PASSED, seconds=2),
            SpecResult(name="two", verdict=Verdict.NOT_RUN, reason="needs two nodes"),
            SpecResult(name="three", verdict=Verdict.FAILED, reason="no | answer\nmore"),
        ],
    )  # fmt: skip
    assert report.to_json()["counts"] == {"passed": 1, "failed": 1, "not run": 1}
    assert report.summary().splitlines() == [
        "1 passed, 1 failed, 1 not run", "  1 not run: needs two nodes", "  FAILED three: no | answer",
    ]  # fmt: skip
    page = report.to_markdown()
    assert "| `one` | 2 | 1 |" in page and "**needs two nodes** (1):\n\n- `two`" in page
    assert "| `three` | `no \\| answer` |" in page


def test_a_run_continues_an_earlier_one_of_the_same_kind_of_node_only(tmp_path: Path) -> None:
    report = ConformanceReport(
        version="v1.36.3", profile="edge-server", target="a machine", focus="", date="2026-11-30",
        seconds=60, runs=2,
        results=[
            SpecResult(name="one", verdict=Verdict.PASSED, attempts=2, image="0123456789"),
            SpecResult(name="two", verdict=Verdict.NOT_RUN, reason="needs two nodes"),
            SpecResult(name="three", verdict=Verdict.NOT_RUN, reason=LATE),
            SpecResult(name="four", verdict=Verdict.FAILED, reason="no answer"),
        ],
    )  # fmt: skip
    path = tmp_path / "conformance.json"
    assert read_earlier(path, "a machine") is None
    path.write_text(json.dumps(report.to_json()))
    earlier = read_earlier(path, "a machine")
    assert earlier and (earlier.runs, earlier.seconds) == (2, 60)
    assert sorted(earlier.results, key=lambda one: one.name) == list(report.results[:2])
    assert report.describe_images() == "`…` (2), `01234567…` (1)"
    assert "## Against a machine\n" in format_page([path, tmp_path / "missing.json"])
    assert read_earlier(path, "programs") is None


def test_joined_archives_have_every_image_and_each_layer_once(tmp_path: Path) -> None:
    lower = container_images.pack_folder("tmp", 0o1777)
    paths = []
    for number in (1, 2):
        image = SmallImage(
            name=f"localhost/image:{number}", files={"number": (b"%d" % number, 0o644)}, lower=[lower], entrypoint=[]
        )
        paths.append(tmp_path / f"{number}.tar")
        write_image(paths[-1], image, Architecture.x86_64)
    joined = tmp_path / "joined.tar"
    container_images.join_archives(paths, joined)
    assert inspect_archive(joined, Architecture.x86_64).names == ("localhost/image:1", "localhost/image:2")
    with tarfile.open(joined) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))


def test_a_kubeconfig_is_for_the_forwarded_port() -> None:
    text = "{clusters: [{name: edge, cluster: {server: 'https://203.0.113.254:6443', ca: QQ==}}]}"
    (entry,) = json.loads(forward_kubeconfig(text, 40001))["clusters"]
    assert entry["cluster"]["server"] == "https://127.0.0.1:40001"
    assert entry["cluster"]["tls-server-name"] == "kubernetes.default.svc"
