"""Jobs of helm-controller on this host: each runs for real, in a root that has only what the kubelet would mount."""

import base64
import io
import shutil
import subprocess
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer
from osbuild.shared.node_settings import API_PORT
from support.control_plane import wait_for

NAMESPACE = "/api/v1/namespaces/default"
CHARTS = "/apis/helm.cattle.io/v1/namespaces/default/helmcharts"
CONFIGS = "/apis/helm.cattle.io/v1/namespaces/default/helmchartconfigs"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
USER = 65532
SERVICE_ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"
TEMPLATE = """
apiVersion: v1
kind: {{ .Values.kind }}
metadata: {name: {{ .Release.Name }}-greeting}
data: {greeting: {{ .Values.greeting | quote }}, revision: "{{ .Release.Revision }}"}
"""


def pack_chart(version: str = "1.0.0", template: str = TEMPLATE) -> bytes:
    """Return the archive of a chart of one template, by default a ConfigMap."""
    files = {
        "Chart.yaml": f"{{apiVersion: v2, name: shop, version: {version}}}\n",
        "values.yaml": "{kind: ConfigMap, greeting: hello}\n",
        "templates/object.yaml": template,
    }
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"shop/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return output.getvalue()


def make_chart_object(server: ApiServer, name: str, **spec: Any) -> None:
    """Create a HelmChart object."""
    body = {"apiVersion": "helm.cattle.io/v1", "kind": "HelmChart", "metadata": {"name": name}, "spec": spec}
    server.call("POST", CHARTS, body)


def change_chart_object(server: ApiServer, name: str, **spec: Any) -> None:
    server.call("PATCH", f"{CHARTS}/{name}", {"spec": spec}, kind=MERGE_PATCH)


def find_object(server: ApiServer, path: str) -> dict[str, Any] | None:
    """Return an object, or None if there is none."""
    try:
        answer: dict[str, Any] = server.call("GET", path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None
    return answer


def greeting(server: ApiServer, name: str) -> dict[str, str] | None:
    """Return what the chart of a release has made."""
    made = find_object(server, f"{NAMESPACE}/configmaps/{name}-greeting")
    return made["data"] if made else None


class JobRunner:
    """Does a kubelet's work for the jobs of helm-controller, with the program of the job's image in `folder`."""

    def __init__(self, server: ApiServer, program: Path, authority: Path, folder: Path) -> None:
        self.server = server
        self.program = program
        self.authority = authority
        self.folder = folder
        self.seen: set[str] = set()

    def next_pod(self, job: str) -> dict[str, Any]:
        """Return the next pod of a job."""

        def pending() -> dict[str, Any] | None:
            for pod in self.server.call("GET", f"{NAMESPACE}/pods?labelSelector=job-name%3D{job}")["items"]:
                if pod["metadata"]["uid"] not in self.seen and not pod["metadata"].get("deletionTimestamp"):
                    self.seen.add(pod["metadata"]["uid"])
                    return dict(pod)
            return None

        return wait_for(pending, f"the pod of {job}", 180)

    def run_job(self, job: str, *, succeeds: bool = True) -> str:
        """Run the next pod of a job to its end. Returns the message of the container."""
        pod = self.next_pod(job)
        container = pod["spec"]["containers"][0]
        root = self.folder / pod["metadata"]["name"]
        self.fill_root(root, pod, container)
        variables = {item["name"]: item.get("value", "") for item in container["env"]}
        variables |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(API_PORT)}
        program = shutil.which("chroot") or "/usr/sbin/chroot"
        command: list[str | Path] = [program, f"--userspec={USER}:{USER}", root, "/edge-helm", *container["args"]]
        result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
        message: str = (root / "dev/termination-log").read_text()
        assert (result.returncode == 0) == succeeds, result.stdout + result.stderr
        self.report_end(pod, result.returncode, message)
        return message

    def fill_root(self, root: Path, pod: dict[str, Any], container: dict[str, Any]) -> None:
        """Make what the container sees: its program, the files of its volumes, and its service account."""
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        root.mkdir(parents=True)
        shutil.copy(self.program, root / "edge-helm")
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            folder = root / mount["mountPath"].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            if "emptyDir" in volumes[mount["name"]]:
                folder.chmod(0o777)
            for name, content in self.volume_files(volumes[mount["name"]]).items():
                (folder / name).write_bytes(content)
        account = pod["spec"]["serviceAccountName"]
        answer = self.server.call("POST", f"{NAMESPACE}/serviceaccounts/{account}/token", {"spec": {}})
        (root / SERVICE_ACCOUNT).mkdir(parents=True, exist_ok=True)
        files = {"token": answer["status"]["token"], "namespace": "default", "ca.crt": self.authority.read_text()}
        for name, text in files.items():
            (root / SERVICE_ACCOUNT / name).write_text(text)
        (root / "dev").mkdir()
        (root / "dev/termination-log").touch()
        (root / "dev/termination-log").chmod(0o666)

    def volume_files(self, volume: dict[str, Any]) -> dict[str, bytes]:
        """Return the files of a volume, by name."""
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        files: dict[str, bytes] = {}
        for source in sources:
            if secret := source.get("secret"):
                name = secret.get("name") or secret.get("secretName")
                data = self.server.call("GET", f"{NAMESPACE}/secrets/{name}").get("data", {})
                content = {key: base64.b64decode(text) for key, text in data.items()}
                items = secret.get("items", [] if "projected" in volume else None)
            elif "configMap" in source:
                items = source["configMap"].get("items")
                data = self.server.call("GET", f"{NAMESPACE}/configmaps/{source['configMap']['name']}").get("data", {})
                content = {key: text.encode() for key, text in data.items()}
            else:
                continue
            if items is None:
                items = [{"key": key, "path": key} for key in content]
            files |= {item["path"]: content[item["key"]] for item in items}
        return files

    def report_end(self, pod: dict[str, Any], status: int, message: str) -> None:
        """Report the end of the container, as a kubelet does. A failed container counts as a failed pod."""
        ended = {"exitCode": status, "reason": "Completed" if status == 0 else "Error", "message": message}
        phase = {
            "phase": "Succeeded" if status == 0 else "Failed",
            "containerStatuses": [
                {"name": "helm", "image": "x", "imageID": "x", "ready": False, "restartCount": 0,
                 "state": {"terminated": ended}}
            ],
        }  # fmt: skip
        path = f"{NAMESPACE}/pods/{pod['metadata']['name']}/status"
        self.server.call("PATCH", path, {"status": phase}, kind=MERGE_PATCH)


def release_state(server: ApiServer, name: str) -> tuple[str, int]:
    """Return status and revision of the newest release, as Helm stores them in labels of its Secrets."""
    selector = f"labelSelector=owner%3Dhelm%2Cname%3D{name}"
    secrets = server.call("GET", f"{NAMESPACE}/secrets?{selector}")["items"]
    newest = max((item["metadata"]["labels"] for item in secrets), key=lambda labels: int(labels["version"]))
    return newest["status"], int(newest["version"])
