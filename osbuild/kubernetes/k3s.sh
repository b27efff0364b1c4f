#!/bin/sh
# Replaces K3s' own wrapper: it sets the same environment, but K3s is unpacked in the image already.
set -eu
programs=/usr/lib/k3s/bin
export PATH="$programs:/usr/sbin:/usr/bin:$programs/aux" K3S_DATA_DIR="${K3S_DATA_DIR:-/var/lib/kubernetes}"
case ${1-} in
    kubectl | crictl)
        program=$1
        shift
        exec "/usr/bin/$program" "$@"
        ;;
    ctr)
        shift
        # containerd of the system, not that of K3s.
        export CONTAINERD_NAMESPACE="${CONTAINERD_NAMESPACE:-k8s.io}"
        exec /usr/bin/ctr "$@"
        ;;
esac
exec "$programs/k3s" "$@"
