# unshare --mount --net --pid --uts --ipc --fork --kill-child sh native_node.sh FOLDER ROOT
#
# A node with the programs of a built image (ROOT, an erofs file) and the kernel of this host, in namespaces: containerd,
# the control plane, kubelet, kube-proxy, pod network and add-ons, configured by the image's own edge agent. There is no
# systemd. FOLDER is for mounts; `files` in it is /run/files of the node, and `var` becomes /var. The node is ready when
# FOLDER/files/ready exists, and ends with this process.
#
# What differs from a device: the host's kernel, cgroups of version 1 without systemd, no AppArmor, no limits of units,
# and names outside the cluster are not resolved.
set -eu
folder=$1
base=/sys/fs/cgroup
name=edge-conformance-$(basename "$folder")

# A cgroup of the node's own in each hierarchy becomes the root of its cgroup namespace.
if [ "${EDGE_CGROUP:-}" != entered ]; then
    for hierarchy in $(grep -v '^0:' /proc/self/cgroup | cut -d: -f2 | sed 's/^name=//'); do
        mkdir -p "$base/$hierarchy/$name"
        if [ "$hierarchy" = cpuset ]; then
            for file in cpuset.cpus cpuset.mems; do cat "$base/cpuset/$file" > "$base/cpuset/$name/$file"; done
        fi
        echo 0 > "$base/$hierarchy/$name/cgroup.procs"
    done
    EDGE_CGROUP=entered exec unshare --cgroup sh "$0" "$@"
fi

mount --make-rprivate /
mount -t tmpfs tmpfs "$folder/rw"
mkdir "$folder/rw/upper" "$folder/rw/work"
mount -t erofs -o loop,ro "$2" "$folder/lower"
mount -t overlay overlay -o "lowerdir=$folder/lower,upperdir=$folder/rw/upper,workdir=$folder/rw/work" "$folder/root"
hierarchies=$(grep -v '^0:' /proc/self/cgroup | cut -d: -f2)
cd "$folder/root"
mount --bind "$folder/var" var
for path in run tmp; do mount -t tmpfs tmpfs "$path"; done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
for hierarchy in $hierarchies; do
    mkdir -p "sys/fs/cgroup/${hierarchy#name=}"
    mount -t cgroup -o "$hierarchy" cgroup "sys/fs/cgroup/${hierarchy#name=}"
done
mount --rbind /dev dev
mkdir -p old run/files run/kine run/kubernetes run/systemd/resolve var/lib/containerd var/lib/cni var/lib/kubernetes \
    var/lib/kubelet var/log var/tmp etc/edge-osbuild
ln -s ../run var/run
mount --bind "$folder/files" run/files
mount -t tmpfs tmpfs var/lib/cni
pivot_root . old
umount -l /old
mount --make-rshared /

ip link set lo up
ip link add edge0 type veth peer name edge1 # a host may lack the kind `dummy`
ip link set edge1 up
ip address add 203.0.113.254/31 dev edge0
ip link set edge0 up
ip route add default via 203.0.113.255 metric 65535
sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
hostname conformance
export PATH=/usr/sbin:/usr/bin HOME=/root
lib=/usr/lib/edge-osbuild
run=/run/edge-osbuild/kubernetes
echo nameserver 203.0.113.254 > /run/systemd/resolve/resolv.conf
printf '127.0.0.1 localhost\n' > /etc/hosts
cp /run/files/kubernetes.json /etc/edge-osbuild/kubernetes.json
sed -i 's/SystemdCgroup = true/SystemdCgroup = false/; /conf_template/d
    s/^sandbox_image.*/&\nrestrict_oom_score_adj = true/' /etc/containerd/config.toml

logs=/run/files/logs
mkdir -p $logs
edge-agent kubernetes prepare > $logs/prepare.log 2>&1
keep() { # NAME COMMAND...: run a program, and again whenever it ends
    log=$1; shift
    while :; do "$@" >> "$logs/$log.log" 2>&1 || true; sleep 1; done &
}
keep containerd $lib/start-containerd
keep server edge-kubernetes run $run/server.json
until ctr version > /dev/null 2>&1; do sleep 0.5; done
sh $lib/import-images > $logs/images.log 2>&1
ctr --namespace k8s.io images import /run/files/images.tar >> $logs/images.log 2>&1
ctr --namespace k8s.io images list --quiet | while read -r image; do
    ctr --namespace k8s.io images label "$image" io.cri-containerd.pinned=pinned > /dev/null
done
export KUBECONFIG=/etc/kubernetes/admin.conf
until kubectl get --raw /readyz > /dev/null 2>&1; do sleep 1; done
keep node edge-kubernetes run $run/node.json
arguments=$(sed s/^ARGS=// $run/apply.env)
until edge-kubernetes apply $arguments; do sleep 2; done > $logs/manifests.log 2>&1
kubectl wait node --all --for=condition=Ready --timeout=300s
edge-agent kubernetes tokens > $logs/tokens.log 2>&1 || true # not needed by a single node
kubectl -n kube-system rollout status deployment/coredns --timeout=180s || echo "CoreDNS is not ready"
kubectl get pods --all-namespaces -o wide
touch /run/files/ready
while :; do sleep 1000; done
