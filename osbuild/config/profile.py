"""Every key of a profile: the one table that the parser, the JSON Schema and the documentation come from.

A field's metadata: `help` is the text for users; `pattern` and `choices` limit a string, `form` describes the
pattern; `minimum` and `maximum` limit a number or size; of a list or mapping they limit the items, and `keys` and
`keys_form` the names of a mapping's entries; `references` are the entries that may refer to a secret. `lines` allows a
text of several lines. `secret` marks a reference that is resolved for the seed only; `path` marks values that name
files, relative to the profile ("overlay", "element", "archive", "manifest"; "reference": only values that
begin with `file:`). `affects` says what the key changes: "image" (the default: a change makes a new image),
"seed" (only the configuration of a node) or "none"; it also applies to all keys below the key.

Patterns use only the syntax that Python's and ECMAScript's regular expressions share, because the JSON Schema contains
them.
"""

from dataclasses import dataclass, field
from typing import Any

from osbuild.config.agent import AgentSettings
from osbuild.config.machine import DiskSettings, KernelSettings
from osbuild.config.metadata import REFERENCE, SecretRef, Size, key
from osbuild.config.network import NetworkSettings
from osbuild.config.registries import RegistrySettings
from osbuild.host.architecture import Architecture
from osbuild.shared import image_versions
from osbuild.shared.node_settings import POD_SECURITY_LEVELS

NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NAME_FORM = "at most 63 lower-case letters, digits and inner hyphens"
PATH = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"
ACCOUNT = r"^[a-z_][a-z0-9_-]{0,31}$"
ACCOUNT_FORM = "at most 32 lower-case letters, digits, `_` and `-`"
LABEL = r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"
# Entries of K3s' configuration that are secrets, and therefore given by reference.
SECRET_CONFIG = (
    "datastore-endpoint", "etcd-s3-access-key", "etcd-s3-secret-key", "etcd-s3-session-token", "etcd-s3-proxy",
    "vpn-auth",
)  # fmt: skip
LABEL_KEY = r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"


@dataclass(frozen=True)
class User:
    name: str = field(metadata=key("login name", pattern=ACCOUNT, form=ACCOUNT_FORM, affects="seed"))
    ssh_keys: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "public keys, each a line of authorized_keys or a `file:`/`env:` reference to some",
            path="reference",
            affects="seed",
        ),
    )
    password: SecretRef | None = field(
        default=None,
        metadata=key("crypt(5) hash of the password, by reference", secret=True, path="reference", affects="seed"),
    )
    groups: tuple[str, ...] = field(
        default=(), metadata=key("supplementary groups", pattern=ACCOUNT, form=ACCOUNT_FORM, affects="seed")
    )
    sudo: bool = field(default=False, metadata=key("may run any command as root without a password", affects="seed"))
    shell: str = field(
        default="/bin/bash",
        metadata=key("login shell", pattern=r"^/[!-9;-~]+$", form="an absolute path", affects="seed"),
    )


@dataclass(frozen=True)
class TimeSettings:
    servers: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "NTP servers; Debian's own if none is given",
            pattern=r"^[A-Za-z0-9.:-]+$",
            form="a host name or an IP address",
            affects="seed",
        ),
    )
    zone: str = field(
        default="UTC",
        metadata=key(
            "time zone",
            pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$",
            form="a name of the tz database such as `Europe/Berlin`",
            affects="seed",
        ),
    )


@dataclass(frozen=True)
class KubernetesSettings:
    role: str = field(
        default="none", metadata=key("role of the node in its cluster", choices=("server", "agent", "none"))
    )
    distribution: str = field(
        default="k3s",
        metadata=key(
            "`k3s`: the official release; `upstream`: built from Kubernetes' own Go modules, with kine",
            choices=("k3s", "upstream"),
        ),
    )
    version: str | None = field(
        default=None,
        metadata=key(
            "any K3s release, such as `v1.35.0+k3s1`, or a version that `upstream` can build, such as `v1.36.3`; the "
            "newest pinned one if not given",
            pattern=r"^v[0-9]+\.[0-9]+\.[0-9]+(\+k3s[0-9]+)?$",
            form="a release such as `v1.35.0+k3s1` (k3s) or `v1.36.3` (upstream)",
        ),
    )
    sha256: dict[str, str] = field(
        default_factory=dict,
        metadata=key(
            "sha256 of the K3s binary by architecture, `{x86_64: …}`; if not given, `lock` reads it from the release's "
            "checksum file",
            pattern=r"^[0-9a-fA-F]{64}$",
            form="64 hexadecimal digits",
        ),
    )
    airgap: bool = field(
        default=False,
        metadata=key("bake in the release's archive of container images, so that K3s' add-ons start without a network"),
    )
    airgap_sha256: dict[str, str] = field(
        default_factory=dict,
        metadata=key(
            "sha256 of `k3s-airgap-images-ARCH.tar.zst` by architecture; if not given, `lock` reads it from the "
            "release's checksum file",
            pattern=r"^[0-9a-fA-F]{64}$",
            form="64 hexadecimal digits",
        ),
    )
    if_unavailable: str | None = field(
        default=None,
        metadata=key("distribution to build instead if the release cannot be downloaded", choices=("upstream",)),
    )
    disable: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "packaged components (add-ons) to leave out, by K3s' names",
            pattern=r"^[a-z0-9][a-z0-9.-]*$",
            form="a component such as `traefik`",
        ),
    )
    load_balancer: bool = field(default=False, metadata=key("addresses of nodes for services of type LoadBalancer"))
    helm: bool = field(
        default=False,
        metadata=key("HelmChart objects install Helm charts, with K3s' helm-controller"),
    )
    charts: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "Helm charts (paths of `.tgz` files) that a server offers to HelmChart objects, at "
            "`https://%{KUBERNETES_API}%/static/charts/`",
            path="chart",
            pattern=PATH,
            form="a name or path",
        ),
    )
    ingress: bool = field(default=False, metadata=key("Ingress objects, by Traefik (K3s' `traefik`)"))
    images: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "container images to bake in: OCI or docker archives (paths), or `demo`, a small web "
            "server that the build makes",
            path="archive",
            pattern=PATH,
            form="a name or path",
        ),
    )
    manifests: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "manifests (paths) that a server applies at start", path="manifest", pattern=PATH, form="a name or path"
        ),
    )
    token: SecretRef | None = field(
        default=None,
        metadata=key(
            "join token of the cluster, a secret: further servers join with it, and agent nodes if there is no "
            "`agent_token`",
            secret=True,
            path="reference",
            affects="seed",
        ),
    )
    agent_token: SecretRef | None = field(
        default=None,
        metadata=key(
            "join token for agent nodes only, a secret; K3s' `agent-token`",
            secret=True,
            path="reference",
            affects="seed",
        ),
    )
    server: str | None = field(
        default=None,
        metadata=key(
            "URL of the server that an agent node or a further server joins",
            pattern=r"^https://[A-Za-z0-9.:\[\]-]+/?$",
            form="a URL such as `https://192.0.2.10:6443`",
            affects="seed",
        ),
    )
    node_ip: str | None = field(
        default=None,
        metadata=key(
            "address at which other nodes reach this one, one per family with a comma between two", affects="seed"
        ),
    )
    labels: dict[str, str] = field(
        default_factory=dict,
        metadata=key(
            "labels of the node",
            pattern=LABEL,
            form="at most 63 letters, digits, `.`, `_` and `-`",
            keys=LABEL_KEY,
            keys_form="a label's name such as `example.com/zone`",
            affects="seed",
        ),
    )
    taints: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "taints of the node, `key=value:effect`",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*(=[A-Za-z0-9_.-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$",
            form="`key=value:effect`, the effect being NoSchedule, PreferNoSchedule or NoExecute",
            affects="seed",
        ),
    )
    registries: RegistrySettings = field(
        default_factory=RegistrySettings,
        metadata=key("mirrors, accounts and certificates of container registries", affects="seed"),
    )
    pod_security: str | None = field(
        default=None,
        metadata=key(
            "Pod Security level of namespaces without a label of their own, except kube-system; `privileged` if not "
            "given",
            choices=POD_SECURITY_LEVELS,
            affects="seed",
        ),
    )
    config: dict[str, Any] = field(
        default_factory=dict,
        metadata=key(
            "K3s configuration file entries to add, for example `tls-san`; the upstream distribution supports some "
            "of them",
            references=SECRET_CONFIG,
            affects="seed",
        ),
    )


@dataclass(frozen=True)
class HealthSettings:
    deadline: int = field(
        default=600,
        metadata=key("seconds after which an unhealthy boot has failed", minimum=30, maximum=86400),
    )


@dataclass(frozen=True)
class SeedPolicy:
    media: str = field(
        default="first-boot",
        metadata=key(
            "when a medium labelled CIDATA may configure a node: `first-boot`, while the node has no seed of its own; "
            "`signed`, at every boot if the seed is signed with a key that the image trusts; `always`, at every boot",
            choices=("first-boot", "signed", "always"),
        ),
    )


@dataclass(frozen=True)
class UpdateSettings:
    deadline: int = field(
        default=3600,
        metadata=key("seconds after which an unfinished installation is aborted", minimum=60, maximum=604800),
    )
    drain_deadline: int = field(
        default=120,
        metadata=key(
            "seconds for pods to move to other nodes before the node reboots into an update", minimum=0,
            maximum=3600,
        ),
    )  # fmt: skip
    snapshots: int = field(
        default=3, metadata=key("maximum number of snapshots of the cluster's datastore", minimum=1, maximum=100)
    )
    snapshot_space: Size = field(
        default=Size(512 * 2**20), metadata=key("maximum total size of these snapshots", minimum=16 * 2**20)
    )


@dataclass(frozen=True)
class Profile:
    """One kind of node, after `extends` was resolved and defaults were added."""

    name: str = field(metadata=key("name of the profile, part of the image's name", pattern=NAME, form=NAME_FORM))
    # RAUC compares versions by semver.org's rules. A device could not refuse a version that RAUC cannot compare.
    version: str = field(
        metadata=key(
            "version of the image",
            pattern=image_versions.PATTERN,
            form="a version that can be compared with others, such as `1.4.0` or `1.4.0-rc.1` (semver.org)",
        )
    )
    description: str = field(
        default="", metadata=key("what this node is for, for human readers", lines=True, affects="none")
    )
    architecture: Architecture = field(default=Architecture.x86_64, metadata=key("what `--arch` is when not given"))
    board: str | None = field(
        default=None,
        metadata=key(
            "what `--board` is when not given: a kind of hardware, which `architecture` then follows",
            pattern=PATH,
            form="a board's name or file",
            affects="none",
        ),
    )
    packages: tuple[str, ...] = field(
        default=(),
        metadata=key("Debian packages to add", pattern=r"^[a-z0-9][a-z0-9+.-]+$", form="a Debian package's name"),
    )
    overlays: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "folders of files to copy over the root file system, in order: names in `overlays/`, or paths relative to "
            "the profile",
            path="overlay",
            pattern=PATH,
            form="a name or path",
        ),
    )
    elements: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "further diskimage-builder elements to run: names, or paths relative to the profile",
            path="element",
            pattern=PATH,
            form="a name or path",
        ),
    )
    kernel: KernelSettings = field(
        default_factory=KernelSettings, metadata=key("kernel, its arguments, modules and settings")
    )
    disk: DiskSettings = field(default_factory=DiskSettings, metadata=key("sizes of the partitions"))
    hostname: str | None = field(
        default=None,
        metadata=key("host name; the node's name if not given", pattern=NAME, form=NAME_FORM, affects="seed"),
    )
    users: tuple[User, ...] = field(default=(), metadata=key("people who may log in", affects="seed"))
    network: NetworkSettings = field(
        default_factory=NetworkSettings, metadata=key("network interfaces", affects="seed")
    )
    ca_certificates: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "certificates of authorities (PEM, one or more in a file) that the node trusts too, by reference",
            path="reference",
            pattern=REFERENCE,
            form="a reference such as `file:ca.pem`",
            affects="seed",
        ),
    )
    time: TimeSettings = field(default_factory=TimeSettings, metadata=key("clock", affects="seed"))
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings, metadata=key("Kubernetes on the node"))
    health: HealthSettings = field(default_factory=HealthSettings, metadata=key("when a boot is healthy"))
    seed: SeedPolicy = field(default_factory=SeedPolicy, metadata=key("who may configure a node"))
    update: UpdateSettings = field(default_factory=UpdateSettings, metadata=key("updates of the device"))
    agent: AgentSettings = field(default_factory=AgentSettings, metadata=key("the edge agent"))
