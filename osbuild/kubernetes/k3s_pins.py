"""K3s releases with the SHA-256 of their binaries, from each release's `sha256sum-ARCH.txt`."""

from osbuild.host.architecture import Architecture

# Name of the binary in a release, by architecture.
ASSETS = {Architecture.x86_64: "k3s", Architecture.arm64: "k3s-arm64", Architecture.armv7: "k3s-armhf"}

# Newest first. A profile without a version gets the first one.
K3S: dict[str, dict[Architecture, str]] = {
    "v1.35.0+k3s1": {
        Architecture.x86_64: "959c9310a6ab893958d1c95bc5d7609de9d7884630c8832180f059369b6dc331",
        Architecture.arm64: "c0b1673a1f2b740cb7bb08355c885efb6a4aa5c8022e5bb306c621c8c1492883",
        Architecture.armv7: "baf71e2e083676cfbb378ee1e1e5aa5509c2f9bd9ba56feb266a0d18365e6f54",
    },
    "v1.34.3+k3s1": {
        Architecture.x86_64: "f95350e3997165974d1d1406f01aabaf869aed7ca790cc2d83a92a82f26a06c5",
        Architecture.arm64: "fa37b06df7ae82b46de6679a8682b6ece2adf531709bed6299086716c1038147",
        Architecture.armv7: "e75d12a5c481e96372b112dc20faa9a64f1b73069897012b025b976bd359de3d",
    },
}
