"""The packaged components (add-ons) that a key of the profile adds to an image, by K3s' names."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

# K3s' name of a component -> the key of `kubernetes` that adds it.
OPTIONAL: Mapping[str, str] = MappingProxyType({"servicelb": "load_balancer", "traefik": "ingress"})


class ComponentSettings(Protocol):
    """The settings of Kubernetes, as a profile or a node has them."""

    @property
    def disable(self) -> Sequence[str]: ...

    @property
    def load_balancer(self) -> bool: ...

    @property
    def helm(self) -> bool: ...

    @property
    def ingress(self) -> bool: ...


def components_left_out(settings: ComponentSettings) -> tuple[str, ...]:
    """Return the components that the cluster does not have: disabled ones, and those whose key is false."""
    absent = [name for name, key in OPTIONAL.items() if not getattr(settings, key)]
    return tuple(dict.fromkeys([*settings.disable, *absent]))


def addons_left_out(settings: ComponentSettings) -> tuple[str, ...]:
    """Return the add-ons of the upstream distribution that the cluster does not have."""
    # K3s has an option of its own for helm-controller.
    left_out = components_left_out(settings)
    return left_out if settings.helm else (*left_out, "helm-controller")
