"""Sources of add-ons with a copy of a module, of which packages are replaced."""

import re
from pathlib import Path

from osbuild.config.profile import KubernetesSettings
from osbuild.host.cache import Cache
from osbuild.kubernetes import addon_images
from osbuild.kubernetes.addon_images import ADDONS, LEGO, TRAEFIK
from osbuild.kubernetes.addon_sources import complete_sources
from osbuild.shared.components import addons_left_out


def test_the_copy_has_the_modules_packages_except_those_that_are_replaced(tmp_path: Path) -> None:
    complete_sources(ADDONS / TRAEFIK.name, LEGO, tmp_path / "sources", Cache())
    copy = tmp_path / "sources/lego"
    assert "module github.com/go-acme/lego/v5\n" in (copy / "go.mod").read_text()
    assert (copy / "challenge/dns01").is_dir()
    assert [path.name for path in (copy / "providers/dns").iterdir()] == ["dns.go"]
    assert not (copy / "cmd").exists() and not list(copy.rglob("*_test.go"))


def test_the_copied_module_has_the_version_that_the_program_requires() -> None:
    required = [
        re.search(r"github.com/go-acme/lego/v5 (v\S+)", (ADDONS / folder / "go.mod").read_text())
        for folder in ("traefik", "traefik/lego")
    ]
    assert all(required) and len({match[1] for match in required if match}) == 1


def test_an_image_has_only_the_add_ons_whose_key_is_on() -> None:
    def names(settings: KubernetesSettings) -> list[str]:
        return [image.name for image in addon_images.find_images(addons_left_out(settings))]

    assert names(KubernetesSettings()) == ["system", "local-path"]
    assert names(KubernetesSettings(load_balancer=True)) == ["system", "local-path"]
    assert names(KubernetesSettings(load_balancer=True, ingress=True)) == ["system", "local-path", "traefik"]
    assert names(KubernetesSettings(helm=True)) == ["system", "local-path", "helm"]
    assert names(KubernetesSettings(disable=("local-storage",))) == ["system"]
