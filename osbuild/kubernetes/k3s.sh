#!/bin/sh
# What K3s' own wrapper does before it runs the inner program, but for unpacking it.
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
        # The system's containerd, not one of K3s' own.
        export CONTAINERD_NAMESPACE="${CONTAINERD_NAMESPACE:-k8s.io}"
        exec /usr/bin/ctr "$@"
        ;;
esac
exec "$programs/k3s" "$@"
