"""The time to the first answer of the cluster's DNS after power-on, and of a pod after its creation."""

import base64
import statistics

from bench.figure import Figure
from bench.guest import Booted
from osbuild.host import log
from osbuild.qemu.deadline import Deadline
from osbuild.shared.errors import Error

REPEATS = 3
DNS_SECONDS = 300.0  # after the verdict on the boot
RESULT = "/run/bench-dns"
# Asks for the address (RFC 1035, section 4.1) of kubernetes.default.svc.cluster.local, with a new port each time: the
# kernel remembers where it has sent packets of a port before the service had an endpoint.
ASK = """
import socket, time
labels = b"kubernetes.default.svc.cluster.local".split(b".")
name = b"".join(bytes([len(label)]) + label for label in labels) + bytes(1)
query = bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + name + bytes([0, 1, 0, 1])
while True:
    begin = time.monotonic()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.5)
            asking.connect(("10.43.0.10", 53))
            asking.send(query)
            answer = asking.recv(512)
        if answer[3] & 15 == 0 and answer[6:8] != bytes(2):
            break
    except OSError:
        pass
    time.sleep(max(0.0, begin + 0.5 - time.monotonic()))
with open("/run/bench-dns", "w") as file:
    print(time.monotonic(), file=file)
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: bench, labels: {app: bench}}
spec: {containers: [{name: web, image: "localhost/edge-demo:1", imagePullPolicy: Never}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: bench}
spec: {selector: {app: bench}, clusterIP: 10.43.0.77, ports: [{port: 80, targetPort: 8080}]}
"""
CREATE = """
import http.client, subprocess, sys, time
def kubectl(*arguments):
    subprocess.run(["kubectl", *arguments], check=True, stdout=subprocess.DEVNULL)
kubectl("create", "-f", "/tmp/bench-pod.yaml")
begin = time.monotonic()
while True:
    connection = http.client.HTTPConnection("10.43.0.77", timeout=0.5)
    try:
        connection.request("GET", "/")
        if connection.getresponse().status == 200:
            break
    except OSError:
        time.sleep(0.1)
    finally:
        connection.close()
    if time.monotonic() > begin + 300:
        sys.exit("the pod has not answered for 300 s")
print(time.monotonic() - begin)
kubectl("delete", "pod", "bench")
"""
MEANING = (
    "First DNS answer: a program in the guest asks the cluster's DNS twice a second for the address of the "
    "service `kubernetes`, until it gets it. Pod: from the end of `kubectl create` until a service of it answers a "
    f"request over HTTP from the node, sent ten times a second; the container image is there. Median of {REPEATS}."
)


def asking_arguments() -> tuple[str, ...]:
    """Return QEMU's arguments for a guest that asks for DNS at each boot, see `first_dns_answer`.

    They are credentials of systemd (systemd.system-credentials(7), `systemd.extra-unit.*`), so the image and its seed
    are those of a user.
    """
    program = "".join(f"\\x{byte:02x}" for byte in ASK.encode())
    unit = f"""[Unit]
DefaultDependencies=no
[Service]
ExecStart=/usr/bin/python3 -I -S -c "{program}"
"""
    credentials = {
        "systemd.extra-unit.bench-dns.service": unit,
        "systemd.unit-dropin.sysinit.target~bench": "[Unit]\nWants=bench-dns.service\n",
    }
    arguments: list[str] = []
    for name, content in credentials.items():
        encoded = base64.b64encode(content.encode()).decode()
        arguments += ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={encoded}"]
    return tuple(arguments)


def first_dns_answer(machine: Booted) -> float:
    """Return the seconds from power-on to the first answer of the cluster's DNS in this boot. Raises `Error`."""
    deadline = Deadline(DNS_SECONDS)
    while True:
        text = machine.guest.run(["cat", RESULT], check=False).stdout.strip()
        if text:
            zero, _ = machine.kernel_start()
            return zero + float(text) - machine.power_on()
        if deadline.passed:
            raise Error(f"the cluster's DNS has not answered {DNS_SECONDS:g} s after the boot was complete")
        deadline.pause(1)


def measure_creation(machine: Booted, name: str) -> tuple[list[Figure], dict[str, object]]:
    """Measure the time from the creation of a pod to its first answer. Raises `Error`."""
    guest = machine.guest
    guest.put(POD.encode(), "/tmp/bench-pod.yaml")
    guest.put(SERVICE.encode(), "/tmp/bench-service.yaml")
    guest.put(CREATE.encode(), "/tmp/bench-create.py")
    guest.run("sudo kubectl create -f /tmp/bench-service.yaml", timeout=120)
    with log.step("creation of pods"):
        seconds = [float(guest.run("sudo python3 /tmp/bench-create.py", timeout=600).stdout) for _ in range(REPEATS)]
    figure = Figure(f"pod_{name}", f"{name}: pod creation to first answer, TCG", statistics.median(seconds), "s")
    return [figure], {f"pod_{name}": seconds}
