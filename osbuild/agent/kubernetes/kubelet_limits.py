"""Settings of every kubelet that protect the node from its pods, as configuration and as flags of K3s.

Entries of `kubelet-arg` override them on both distributions.
"""

from typing import Any

from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.files import file_system_space

MIB = 2**20
# What an update needs on the data partition: room for a snapshot of the datastore, and 128 MiB beside it.
UPDATE_ROOM = 256 * MIB
LEAST_PERCENT, MOST_PERCENT = 5, 15  # of the data partition that must be free; 5 is the default of K3s

# Field of KubeletConfiguration, flag, value.
LIMITS: tuple[tuple[str, str, int | str | bool], ...] = (
    ("containerLogMaxFiles", "container-log-max-files", 3),
    ("containerLogMaxSize", "container-log-max-size", "10Mi"),
    # Unused images are removed before pods are evicted, except the pinned ones, which are those of the image.
    ("imageGCHighThresholdPercent", "image-gc-high-threshold", 80),
    ("imageGCLowThresholdPercent", "image-gc-low-threshold", 70),
    ("podPidsLimit", "pod-max-pids", 4096),
    ("seccompDefault", "seccomp-default", True),
    ("streamingConnectionIdleTimeout", "streaming-connection-idle-timeout", "5m"),
)
# The suites of TLS 1.2 that K3s accepts too. Those of TLS 1.3 cannot be chosen.
CIPHER_SUITES = (
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
)


def eviction_thresholds(paths: Paths) -> dict[str, str]:
    """The thresholds of `evictionHard`: pods are evicted while an update still fits on the data partition."""
    percent = f"{LEAST_PERCENT}%"
    space = file_system_space(paths.data)
    free = percent
    if space is not None:
        most = space.size * MOST_PERCENT // 100
        if space.size * LEAST_PERCENT // 100 < min(UPDATE_ROOM, most):
            free = f"{min(UPDATE_ROOM, most) // MIB}Mi"
    return {
        "imagefs.available": free,
        "memory.available": "50Mi",
        "nodefs.available": free,
        "nodefs.inodesFree": percent,
    }


def limit_settings(paths: Paths) -> dict[str, Any]:
    """The fields of KubeletConfiguration."""
    fields: dict[str, Any] = {field: value for field, _, value in LIMITS}
    return {**fields, "evictionHard": eviction_thresholds(paths), "tlsCipherSuites": list(CIPHER_SUITES)}


def limit_flags(paths: Paths) -> list[str]:
    """The same settings for `kubelet-arg` of K3s."""
    flags = [f"{flag}={str(value).lower() if isinstance(value, bool) else value}" for _, flag, value in LIMITS]
    thresholds = ",".join(f"{signal}<{free}" for signal, free in eviction_thresholds(paths).items())
    return [f"eviction-hard={thresholds}", f"tls-cipher-suites={','.join(CIPHER_SUITES)}", *flags]
