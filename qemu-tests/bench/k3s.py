"""The image, the boots and the memory of a node with K3s, if a release of K3s is available here."""

from support.distributions import K3S, unavailable_reason

from bench import boot, size
from bench.figure import Measured
from bench.site import BenchSite
from osbuild.config.load import find_profile, load_profile
from osbuild.host import log

NAME = "k3s"
# What `edge-server` has on K3s beyond what it has on upstream.
EXTRA = ("traefik", "servicelb")


def measure(site: BenchSite) -> Measured:
    """Measure what `boot` measures, on K3s with the same add-ons. Without a release there are no figures but a note."""
    release = K3S.releases[-1]
    architecture = load_profile(find_profile(boot.BASE)).profile.architecture
    reason = K3S.missing(architecture) or unavailable_reason(K3S.name, release, architecture, airgap=True)
    if reason:
        return Measured([], f"{boot.BASE} with K3s.", notes=(f"not measured: {reason}",))
    (site.folder / NAME).mkdir()
    kubernetes = {
        "distribution": K3S.name,
        "version": release,
        "if_unavailable": None,
        "airgap": True,
        "disable": list(EXTRA),
    }
    overlays = site.overlays(NAME, boot.BASE)
    profile = site.profile(NAME, boot.BASE, {"overlays": overlays, "kubernetes": kubernetes}, lock=False)
    with log.step(f"image of {boot.BASE} with K3s {release}"):
        site.build(profile)
    image = size.measure_image(site, profile, suffix=f"_{NAME}")
    measured = boot.measure_node(site, profile, suffix=f"_{NAME}", ready=None)
    meaning = f"K3s {release}: {image.meaning} {measured.meaning}"
    metadata = {**image.metadata, **measured.metadata}
    return Measured([*image.figures, *measured.figures], meaning, metadata, (*image.notes, *measured.notes))
