#!/bin/bash
# In the place of edge-debian's root.d/10-install: the usual way, every program of the root under emulation.
set -eu -o pipefail
touch "$TMP_BUILD_DIR/started"
options=()
while read -r option; do
    options+=("--dpkgopt=$option")
done < <(python3 -c 'from osbuild.rootfs.installer.install import OPTIONS; print(*OPTIONS, sep="\n")')
mmdebstrap --variant=custom --mode=root --architectures="$EDGE_ARCHITECTURE" --skip=check/empty,check/qemu \
    --include="$(sed -n 's/^Package: //p' "$EDGE_REPOSITORY/Packages" | paste -sd,)" "${options[@]}" \
    "$EDGE_SUITE" "$TARGET_ROOT" "deb [trusted=yes] copy:$EDGE_REPOSITORY ./"
