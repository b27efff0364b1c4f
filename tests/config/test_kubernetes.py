"""What Kubernetes would reject on the node is rejected when the profile is read: one error with position and hint."""

import json
from pathlib import Path

import pytest
import yaml

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import settings as device
from osbuild.config.load import load_profile
from osbuild.seed.render import render_seed
from osbuild.shared.errors import Error

SERVER = "name: node\nversion: 1.0.0\noverlays: [base, kubernetes]\nkubernetes:\n  role: server\n"
UPSTREAM = "  distribution: upstream\n"
SUBSTITUTE = "  if_unavailable: upstream\n"

# lines below `kubernetes`, line of the error, parts of the message, part of the hint
PODS, SERVICES = "cluster-cidr: '10.42.0.0/16,fd00:42::/56'", "service-cidr: '10.43.0.0/16,fd00:43::/112'"
WRONG: list[tuple[str, int, tuple[str, ...], str]] = [
    # labels: Kubernetes' IsQualifiedName, and the kubelet's own rule for kubernetes.io and k8s.io
    ("  labels: {node-role.kubernetes.io/a: ''}", 6, ("`node-role.kubernetes.io/a`", "itself"), "kubectl label"),
    ("  labels: {k8s.io/a: b}", 6, ("`k8s.io/a`", "itself"), "topology.kubernetes.io/zone"),
    ("  labels: {node-restriction.kubernetes.io/a: b}", 6, ("itself",), "kubectl label"),
    ("  labels: {kubernetes.io/role: b}", 6, ("itself",), "kubectl label"),
    ("  labels: {-a.example/zone: b}", 6, ("before the `/`",), "example.com/zone"),
    ("  labels: {a..b/zone: b}", 6, ("before the `/`",), "example.com/zone"),
    ("  labels: {.com/zone: b}", 6, ("before the `/`",), "example.com/zone"),
    # taints
    ("  taints: ['a/b/c:NoSchedule']", 6, ("more than one `/`",), "example.com/name"),
    ("  taints: ['-a/b:NoSchedule']", 6, ("`-a/b:NoSchedule`",), ""),
    ("  taints: ['a-:NoSchedule']", 6, ("begins and ends",), "example.com/name"),
    ("  taints: ['a=-b:NoSchedule']", 6, ("the value `-b`",), "63"),
    (f"  taints: ['{'a' * 64}:NoSchedule']", 6, ("1 to 63",), "example.com/name"),
    (f"  taints: ['a={'b' * 64}:NoSchedule']", 6, ("the value",), "63"),
    ("  taints: ['a=b:NoExecute', 'a=c:NoExecute']", 6, ("two taints", "NoExecute"), "6:12"),
    # server
    ("  server: https://192.0.2.300:6443", 6, ("not an IP address",), "https://192.0.2.10:6443"),
    ("  server: https://192.0.2.1:66443", 6, ("not valid",), "https://"),
    ("  server: https://192.0.2.1:0", 6, ("1 to 65535",), "https://"),
    ("  server: 'https://-a.example:6443'", 6, ("`-a`",), "https://"),
    ("  server: 'https://[::1'", 6, ("not valid",), "https://"),
    ("  server: 'https://2001:db8::1:6443'", 6, ("",), "https://"),
    # ranges
    ("  config: {cluster-cidr: 10.42.0.1/16}", 6, ("`10.42.0.1/16`", "range"), "`10.42.0.0/16`"),
    ("  config: {cluster-cidr: 10.42.0.0}", 6, ("10.42.0.0/32", "/1 to /24"), "`10.42.0.0/24`"),
    ("  config: {cluster-cidr: pods}", 6, ("`pods`", "range"), "10.42.0.0/16"),
    ("  config: {cluster-cidr: 10.42.0.0/28}", 6, ("/1 to /24",), "/24"),
    ("  version: v1.33.6+k3s1\n  config: {service-cidr: 172.0.0.0/8}", 7, ("/12 to /28",), "/12"),
    ("  config: {service-cidr: 10.43.0.0/30}", 6, ("/1 to /28",), "/28"),
    ("  config: {service-cidr: 10.42.128.0/17}", 6, ("overlaps",), "nothing else uses"),
    ("  config: {cluster-dns: 10.44.0.10}", 6, ("10.44.0.10", "10.43.0.0/16"), "`10.43.0.10`"),
    ("  config: {cluster-dns: 10.43.0.1}", 6, ("10.43.0.1",), "`10.43.0.10`"),
    ("  config: {cluster-dns: '10.43.0.10,2001:db8::a'}", 6, ("expected one address",), "`10.43.0.10`"),
    (f"  config: {{{PODS}}}", 6, ("the same address families",), "an IPv4 range and"),
    ("  config: {cluster-cidr: [10.42.0.0/16, 'fd00:42::/56']}", 6, ("the same address families",), "IPv6 range"),
    (f"  config: {{{PODS}, service-cidr: 'fd00:43::/112,10.43.0.0/16'}}", 6, ("in the same order",), "IPv4"),
    ("  config: {cluster-cidr: '10.42.0.0/16,10.44.0.0/16'}", 6, ("one range of each",), "one of IPv6"),
    ("  config: {cluster-cidr: '2001:cafe:42::/56'}", 6, ("the same address families",), "IPv6"),
    ("  config: {service-cidr: '2001:cafe:43::/112'}", 6, ("the same address families",), "IPv4"),
    (f"  config: {{{PODS}, service-cidr: '10.43.0.0/16,fd00:42::/112'}}", 6, ("overlaps",), "nothing else"),
    (f"  node_ip: 192.0.2.5\n  config: {{{PODS}, {SERVICES}}}", 6, ("an IPv6 address",), "both"),
    ("  node_ip: '192.0.2.5,192.0.2.6'", 6, ("one address of each family",), "or both"),
    ("  config: {advertise-address: '192.0.2.5,fd00::5'}", 6, ("expected one",), "first family"),
    ("  config: {cluster-cidr: 'fd00::/40', service-cidr: 'fd01::/112'}", 6, ("/48 to /64",), "/48"),
    ("  config: {cluster-cidr: 'fd00::/56', service-cidr: 'fd01::/48'}", 6, ("/64 to /124",), "/64"),
    # addresses of the node
    ("  node_ip: 127.0.0.1", 6, ("127.0.0.1", "cannot reach"), "interfaces"),
    ("  node_ip: 0.0.0.0", 6, ("cannot reach",), "interfaces"),
    ("  node_ip: 169.254.1.1", 6, ("cannot reach",), "interfaces"),
    ("  node_ip: 'fe80::1%eth0'", 6, ("zone",), "%"),
    ("  node_ip: '192.0.2.5,2001:db8::5'", 6, ("10.42.0.0/16", "expected an IPv4 address"), "`cluster-cidr`"),
    ("  node_ip: '2001:db8::5'", 6, ("2001:db8::5", "10.42.0.0/16"), "write an IPv4 address"),
    ("  node_ip: 10.42.0.5", 6, ("range of the pods",), "another range"),
    ("  node_ip: 10.43.0.5", 6, ("range of the services",), "another range"),
    ("  node_ip: 192.0.2.6\nnetwork: {interfaces: [{name: a, dhcp: false, addresses: [192.0.2.5/24]}]}", 6,
     ("`192.0.2.6`", "none of its interfaces"), "192.0.2.5"),
    ("network: {interfaces: [{name: a, addresses: [10.42.0.5/16]}]}", 6, ("range of the pods",), "another range"),
    ("network: {interfaces: [{name: a, addresses: [10.43.9.5/16]}]}", 6, ("range of the services",), "another range"),
    ("  config: {advertise-address: router}", 6, ("`router`", "IP address"), "without `/`"),
    ("  config: {advertise-address: 10.43.0.1}", 6, ("range of the services",), ""),
    # what another key sets, and what is misspelt
    ("  config: {node-ip: 192.0.2.5}", 6, ("the image writes itself",), "`kubernetes.node_ip`"),
    ("  config: {token-file: /etc/token}", 6, ("the image writes itself",), "`kubernetes.token`"),
    ("  config: {private-registry: /etc/r.yaml}", 6, ("the image writes itself",), "`kubernetes.registries`"),
    ("  config: {tls-sans: [a]}", 6, ("`tls-sans`", "does not know"), "`tls-san`"),
    ("  config: {cluster_cidr: 10.42.0.0/16}", 6, ("does not know",), "`cluster-cidr`"),
    ("  disable: [treafik]", 6, ("`treafik`",), "`traefik`"),
    ("  ingress: true", 6, ("would have no address",), "MetalLB"),
    ("  load_balancer: true\n  ingress: true\n  disable: [traefik]", 8, ("`ingress: true` adds it",), "remove it"),
    ("  load_balancer: true\n  disable: [servicelb]", 7, ("`servicelb`", "`load_balancer: true`"), "remove it"),
    ("  charts: [shop-1.0.0.tgz]", 6, ("nothing that would install it",), "`helm: true`"),
    ("  helm: true\n  charts: [./shop]", 7, ("expected the archive of a chart",), "`helm package FOLDER`"),
    ("  config: {tls-san: ['https://a.example']}", 6, ("`https://a.example`",), "without `https://`"),
    ("  config: {tls-san: ['a.example:6443']}", 6, ("`a.example:6443`",), "port"),
    # flags
    ("  config: {kubelet-arg: ['max-pods 50']}", 6, ("`max-pods 50`", "`flag=value`"), "max-pods=50"),
    ("  config: {kubelet-arg: {max-pods: 50}}", 6, ("`50`", "`flag=value`"), "max-pods=50"),
    ("  config: {kubelet-arg: ['-v=2']}", 6, ("`-v=2`",), "max-pods=50"),
    ("  config: {kubelet-arg: ['node-labels=a=b']}", 6, ("`node-labels`", "the image sets"), "`kubernetes.labels`"),
    ("  config: {kubelet-arg: '--register-with-taints=a'}", 6, ("`register-with-taints`",), "`kubernetes.taints`"),
    (UPSTREAM + "  config: {kubelet-arg: [config=/etc/kubelet.yaml]}", 7, ("`config`", "the image sets"), "nothing"),
    (UPSTREAM + "  config: {kubelet-arg: ['a=b c']}", 7, ("a blank",), "systemd unit"),
    (UPSTREAM + "  config: {kubelet-arg: ['a=\"b\"']}", 7, ("quote",), "systemd unit"),
    # values of options and flags: one table of their types
    *((f"  config: {{{name}: {text}}}", 6, (f"`{name}`", expected), hint) for name, text, expected, hint in (
        ("cluster-domain", "foo bar", "a domain", "`cluster.local`"),
        ("cluster-domain", "-a", "a domain", "`cluster.local`"),
        ("cluster-domain", "UPPER.local", "in lower case", "`cluster.local`"),
        ("https-listen-port", "abc", "a port from 1", "6443"),
        ("https-listen-port", "70000", "a port from 1", "6443"),
        ("https-listen-port", "-1", "a port from 1", "6443"),
        ("supervisor-port", "[65536]", "or 0", "6443"),
        ("service-node-port-range", "abc", "a range of ports", "30000-32767"),
        ("service-node-port-range", "32767-30000", "a range of ports", "30000-32767"),
        ("service-node-port-range", "30000-70000", "a range of ports", "30000-32767"),
        ("flannel-backend", "foo", "vxlan, host-gw", "`vxlan`"),
        ("flannel-backend", "wireguard", "wireguard-native", "`wireguard-native`"),
        ("node-external-ip", "abc", "IP addresses", "192.0.2.5"),
        ("bind-address", "foo", "an IP address", "192.0.2.5"),
        ("etcd-snapshot-retention", "many", "a whole number", "0"),
        ("etcd-s3-timeout", "5", "a duration", "30s"),
        ("secrets-encryption", "maybe", "`true` or `false`", "true"),
        ("write-kubeconfig-mode", "999", "octal", "0600"),
        ("flannel-iface", "a/b", "an interface", "eth0"),
    )),
    *((f"  config: {{{name}: ['{text}']}}", 6, (f"`{text}` in `{name}`", expected), "write")
      for name, text, expected in (
        ("kubelet-arg", "max-pods=abc", "a whole number"),
        ("kubelet-arg", "--max-pods=-1", "a whole number"),
        ("kubelet-arg", "max-pods=", "a whole number"),
        ("kubelet-arg", "cgroup-driver=cgroup", "systemd, cgroupfs"),
        ("kubelet-arg", "image-gc-high-threshold=101", "0 to 100"),
        ("kubelet-arg", "node-status-update-frequency=10", "a duration"),
        ("kubelet-arg", "fail-swap-on=no", "`true` or `false`"),
        ("kube-apiserver-arg", "secure-port=0", "a port from 1"),
        ("kube-apiserver-arg", "service-node-port-range=1-70000", "a range of ports"),
        ("kube-controller-manager-arg", "bind-address=all", "an IP address"),
        ("kube-scheduler-arg", "v=high", "a whole number"),
        ("kube-proxy-arg", "proxy-mode=userspace", "iptables, ipvs, nftables"),
    )),
    # addresses that no other host can reach
    ("  server: https://0.0.0.0:6443", 6, ("no address",), "https://192.0.2.10:6443"),
    ("  server: 'https://[::]:6443'", 6, ("no address",), "https://192.0.2.10:6443"),
    ("  node_ip: 192.0.2.5\n  server: https://192.0.2.5:6443", 7, ("the node itself",), "joins"),
    ("  node_ip: 255.255.255.255", 6, ("broadcast",), "interfaces"),
    ("  node_ip: 0.0.0.5", 6, ("0.0.0.0/8",), "interfaces"),
    ("  config: {service-cidr: 127.0.0.0/16}", 6, ("127.0.0.0/8",), "private range"),
    ("  config: {service-cidr: 169.254.0.0/16}", 6, ("169.254.0.0/16",), "private range"),
    ("  config: {cluster-cidr: 224.0.0.0/8}", 6, ("224.0.0.0/4",), "private range"),
    ("  config: {cluster-cidr: 0.0.0.0/1}", 6, ("0.0.0.0/8",), "private range"),
    ("  config: {cluster-cidr: 'fe80::/56', service-cidr: 'fd00::/112'}", 6, ("fe80::/10",), "private range"),
    ("  config: {cluster-dns: 10.43.255.255}", 6, ("10.43.255.255",), "`10.43.0.10`"),
    # labels that the kubelet sets
    ("  labels: {kubernetes.io/os: windows}", 6, ("`windows`", "the kubelet sets"), "remove"),
    ("  labels: {beta.kubernetes.io/arch: x86_64}", 6, ("`x86_64`", "the kubelet sets"), "remove"),
    # what the upstream distribution would not use
    (UPSTREAM + "  config: {embedded-registry: true}", 7, ("`embedded-registry`", "upstream"), "tls-san"),
    (UPSTREAM + "  node_ip: 192.0.2.2\n  server: https://192.0.2.1:6443\n  config: {cluster-init: true}", 8,
     ("`cluster-init` and `server`", "exclude each other"), "the first server"),
    (UPSTREAM + "  config: {cluster-init: true, datastore-endpoint: 'file:endpoint'}", 7,
     ("`cluster-init` and `config.datastore-endpoint`",), "the first server"),
    (SUBSTITUTE + "  config: {embedded-registry: true}", 7, ("`embedded-registry`",), "if_unavailable: null"),
    (SUBSTITUTE + "  config: {tls-san: a.example, debug: true}", 7, ("`debug`", "`if_unavailable`"), "tls-san"),
    # secrets, which are never quoted
    ("  config: {datastore-endpoint: 'postgres://k3s:hunter2@192.0.2.9/k3s'}", 6, ("a literal secret",), "`file:PATH`"),
    ("  config: {datastore-endpoint: 'mysql://k:hunter2@tcp(192.0.2.9:3306)/'}", 6, ("a literal secret",), "env:NAME"),
    ("  config: {datastore-endpoint: 'host=db user=k3s password=hunter2'}", 6, ("a literal secret",), "`file:PATH`"),
    ("  config: {datastore-endpoint: 'mysql://k:hun/ter2@tcp(192.0.2.9:3306)/'}", 6, ("a literal secret",), "env:NAME"),
    ("  config: {datastore-endpoint: 'mysql://k:hun#ter?2@tcp(192.0.2.9:3306)/'}", 6, ("a literal",), "env:NAME"),
    ("  config: {datastore-endpoint: 'postgres://db/k?sslpassword=hunter2'}", 6, ("a literal secret",), "env:NAME"),
    ("  config: {datastore-endpoint: 'host=db password = hunter2'}", 6, ("a literal secret",), "env:NAME"),
    ("  config: {kube-apiserver-arg: [oidc-client-secret=hunter2]}", 6, ("a literal secret",), "remove it"),
    ("  config: {etcd-arg: [etcd-password=hunter2]}", 6, ("a literal secret",), "remove it"),
    ("  config: {etcd-s3-secret-key: hunter2}", 6, ("a literal secret",), "`file:PATH`"),
    ("  config: {vpn-auth: [hunter2]}", 6, ("a literal secret",), "`file:PATH`"),
    ("  config: {kubelet-arg: ['a=https://me:hunter2@host/']}", 6, ("a literal secret",), "datastore-endpoint"),
    ("  config: {a: {b: ['https://me:hunter2@host/']}}", 6, ("a literal secret",), "datastore-endpoint"),
    # an error stays on one line, whatever is in the value
    *((f'  config: {{{name}: "a\\n.b"}}', 6, ("`a·.b`",), "write")
      for name in ("tls-san", "cluster-cidr", "cluster-dns")),
]  # fmt: skip

RIGHT = [
    "  labels: {topology.kubernetes.io/zone: a, node.kubernetes.io/x: b, a.kubelet.kubernetes.io/x: c, d: ''}",
    "  labels: {my-kubernetes.io/x: a, example.com/Zone_1.a: b}",
    "  taints: ['a:NoSchedule', 'a:NoExecute', 'example.com/gpu=true:PreferNoSchedule', 'b=:NoExecute']",
    "  server: 'https://[2001:db8::1]:6443'",
    "  server: https://k3s.example",
    "  config: {cluster-cidr: 10.52.0.0/16, service-cidr: 10.53.0.0/16, cluster-dns: 10.53.0.10}",
    "  config: {cluster-cidr: [10.52.0.0/16]}",
    "  config: {service-cidr: 172.0.0.0/8}",
    "  config: {cluster-cidr: 'fd00:42::/56', service-cidr: 'fd00:43::/112'}\n  node_ip: 'fd00:1::5'",
    f"  node_ip: '192.0.2.5,fd00:1::5'\n  config: {{{PODS}, {SERVICES}}}",
    UPSTREAM + "  node_ip: 'fd00:1::5'\n  config: {cluster-cidr: 'fd00:42::/56', service-cidr: 'fd00:43::/112'}",
    UPSTREAM + "  config: {flannel-external-ip: true, node-external-ip: '192.0.2.5,2001:db8::5'}",
    "  node_ip: 192.0.2.5\n  config: {advertise-address: 192.0.2.6, tls-san: ['*.example.com', 192.0.2.7, 'fd00::1']}",
    "  node_ip: 192.0.2.6\nnetwork: {interfaces: [{name: a, addresses: [192.0.2.5/24]}]}",  # by DHCP
    "  node_ip: 192.0.2.6\nnetwork: {interfaces: [{name: a, dhcp: false, addresses: [192.0.2.5/24, 192.0.2.6/24]}]}",
    "network: {interfaces: [{name: a, addresses: [10.0.0.5/8]}]}",
    "  config: {kubelet-arg: [config=/etc/kubelet.yaml, 'eviction-hard=memory.available<100Mi']}",
    "  config: {kubelet-arg: ['max-pods=50', '--v=2', 'feature-gates=A=true,B=false', 'fail-swap-on']}",
    "  config: {datastore-endpoint: 'nats://192.0.2.9', a-later-option: true}",
    "  config: {https-listen-port: 6443, supervisor-port: 0, secrets-encryption: true, write-kubeconfig-mode: '0640'}",
    "  config: {flannel-backend: none, node-external-ip: '192.0.2.5,2001:db8::5', bind-address: '::'}",
    "  config: {flannel-backend: wireguard-native, service-node-port-range: 20000+1000, cluster-domain: site.example}",
    "  config: {kubelet-arg: [node-status-update-frequency=1m30s, serialize-image-pulls=false, unknown-flag=a b]}",
    "  config: {kubelet-arg: [fail-swap-on, image-gc-high-threshold=100], kube-proxy-arg: [proxy-mode=nftables]}",
    "  config: {cluster-cidr: 240.0.0.0/16, tls-san: 0.0.0.0}",
    "  labels: {kubernetes.io/os: linux, kubernetes.io/arch: amd64, kubernetes.io/hostname: shop-7}",
    "  server: https://127.0.0.1:6443",  # a proxy on the node
    UPSTREAM + "  config: {kubelet-arg: ['max-pods=50'], tls-san: [a.example]}",
    UPSTREAM + "  config: {flannel-backend: wireguard-native, flannel-iface: eth1, disable-network-policy: true}",
    UPSTREAM + "  disable: [traefik, metrics-server]",
    UPSTREAM + "  disable: [traefik, servicelb]\n  load_balancer: false",
    "  disable: [traefik]\n  load_balancer: true",
    UPSTREAM + "  node_ip: 192.0.2.2\n  server: https://192.0.2.1:6443\n  config: {etcd-snapshot-retention: 3}",
    UPSTREAM + "  node_ip: 192.0.2.2\n  config: {cluster-init: true, etcd-snapshot-schedule-cron: '0 */6 * * *'}",
    "  config: {cluster-init: true}",
    UPSTREAM + "  helm: true\n  charts: [charts/shop-1.0.0.tgz]",
    "  disable: [servicelb]\n  ingress: true",
    SUBSTITUTE + "  config: {kubelet-arg: ['max-pods=50']}\n  disable: [traefik]",
]


@pytest.mark.parametrize(("text", "line", "message", "hint"), WRONG, ids=[entry[0].strip()[:70] for entry in WRONG])
def test_what_kubernetes_rejects_is_rejected_with_one_clear_error(
    tmp_path: Path, text: str, line: int, message: tuple[str, ...], hint: str
) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"{SERVER}{text}\n")
    with pytest.raises(Error) as caught:
        load_profile(path)
    error = caught.value
    assert (error.where or "").startswith(f"{path}:{line}:"), error
    assert all(part in error.message for part in message), error.message
    assert error.hint and hint in error.hint, error.hint
    assert "hunter2" not in f"{error} {error.hint}"
    assert len(error.message) < 400 and "\n" not in error.message


@pytest.mark.parametrize("text", RIGHT, ids=[text.strip()[:70] for text in RIGHT])
def test_what_kubernetes_accepts_is_accepted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"{SERVER}{text}\n")
    loaded = load_profile(path)
    render_seed(loaded.profile, "edge-1", folder=tmp_path)


def test_an_agent_need_not_know_the_ranges_of_its_server(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(SERVER.replace("role: server", "role: agent") + "  node_ip: 'fd00::5'\n")
    assert load_profile(path).profile.kubernetes.node_ip == "fd00::5"


def test_a_cluster_of_ipv6_needs_the_address_of_its_node_in_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(SERVER + "  config: {cluster-cidr: 'fd00:42::/56', service-cidr: 'fd00:43::/112'}\n")
    loaded = load_profile(path)
    with pytest.raises(Error, match="advertise-address"):
        render_seed(loaded.profile, "edge-1", folder=tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"cluster-cidr": "10.42.0.0/28"},
        {"service-cidr": "10.42.0.0/17"},
        {"service-cidr": "169.254.0.0/16"},
        {"cluster-dns": "10.43.255.255"},
        {"advertise-address": "0.0.0.5"},
    ],
)
def test_the_device_rejects_the_same_ranges(tmp_path: Path, config: dict[str, str]) -> None:
    path = tmp_path / device.SEED_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"role": "server", "config": config}))
    with pytest.raises(Problem):
        device.load_settings(tmp_path)


def test_secrets_in_the_configuration_of_k3s_are_references_that_the_seed_resolves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base" / "base.yaml"
    base.parent.mkdir()
    (base.parent / "endpoint").write_text("postgres://k3s:hunter2@192.0.2.9/k3s\n")
    base.write_text("kubernetes: {config: {datastore-endpoint: 'file:endpoint', vpn-auth: 'env:VPN_AUTH'}}\n")
    path = tmp_path / "node.yaml"
    path.write_text(f"extends: ./base/base.yaml\n{SERVER}")
    monkeypatch.setenv("VPN_AUTH", "t0ken")
    loaded = load_profile(path)
    # Relative to the profile, wherever it was stated.
    assert loaded.profile.kubernetes.config["datastore-endpoint"] == "file:base/endpoint"
    data = yaml.safe_load(render_seed(loaded.profile, "edge-1", folder=loaded.folder).files["user-data"])
    contents = {entry["path"]: entry["content"] for entry in data["write_files"]}
    assert json.loads(contents["/etc/edge-osbuild/kubernetes.json"])["config"] == {
        "datastore-endpoint": "postgres://k3s:hunter2@192.0.2.9/k3s",
        "vpn-auth": "t0ken",
    }
