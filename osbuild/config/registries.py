"""The keys of a profile's `kubernetes.registries`, in the format of K3s' registries.yaml. They change only the seed."""

from dataclasses import dataclass, field

from osbuild.config.metadata import SecretRef
from osbuild.config.network import seed_key

URL = r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$"


@dataclass(frozen=True)
class RegistryMirror:
    endpoint: tuple[str, ...] = field(
        default=(),
        metadata=seed_key(
            "URLs of mirrors, which are tried in this order before the registry itself",
            pattern=URL,
            form="a URL such as `https://mirror.example:5000`, without user and password",
        ),
    )


@dataclass(frozen=True)
class RegistryAuth:
    username: str | None = field(default=None, metadata=seed_key("name of the account"))
    password: SecretRef | None = field(
        default=None, metadata=seed_key("its password or token, by reference", secret=True, path="reference")
    )
    auth: SecretRef | None = field(
        default=None,
        metadata=seed_key(
            "instead of both: the base64 of `USERNAME:PASSWORD`, by reference", secret=True, path="reference"
        ),
    )


@dataclass(frozen=True)
class RegistryTls:
    ca_file: SecretRef | None = field(
        default=None,
        metadata=seed_key(
            "certificates of the registry's authority (PEM), by reference", secret=True, path="reference"
        ),
    )
    cert_file: SecretRef | None = field(
        default=None,
        metadata=seed_key(
            "certificate with which the node proves who it is (PEM), by reference", secret=True, path="reference"
        ),
    )
    key_file: SecretRef | None = field(
        default=None, metadata=seed_key("its private key (PEM), by reference", secret=True, path="reference")
    )
    insecure_skip_verify: bool = field(
        default=False, metadata=seed_key("accept any certificate of the registry: anybody can pretend to be it")
    )


@dataclass(frozen=True)
class RegistryHost:
    auth: RegistryAuth = field(default_factory=RegistryAuth, metadata=seed_key("account at this registry or mirror"))
    tls: RegistryTls = field(default_factory=RegistryTls, metadata=seed_key("certificates of this registry or mirror"))


@dataclass(frozen=True)
class RegistrySettings:
    mirrors: dict[str, RegistryMirror] = field(
        default_factory=dict,
        metadata=seed_key("mirrors by registry, `HOST` or `HOST:PORT`; `*` are all registries without an entry"),
    )
    configs: dict[str, RegistryHost] = field(
        default_factory=dict,
        metadata=seed_key("accounts and certificates by host of a registry or mirror, `HOST` or `HOST:PORT`"),
    )
