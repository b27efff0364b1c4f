# unshare --mount --net --pid --fork sh containers.sh FOLDER ROOT SCRIPT
#
# Run SCRIPT in the root of a built image (an erofs file), beside its containerd, with its own mounts, network and
# processes. Two settings differ from a device's: here is no systemd to make cgroups, and a process's OOM score may not
# be lowered. FOLDER is for mounts. It holds `net.d`, which is copied to /etc/cni/net.d, and may
# hold `etc` (copied to /etc), `files` (to /run/files) and `tools`, a tools tree that is mounted at /run/tools.
set -eu
folder=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder/rw"
mkdir "$folder/rw/upper" "$folder/rw/work"
mount -t erofs -o loop,ro "$2" "$folder/lower"
mount -t overlay overlay -o "lowerdir=$folder/lower,upperdir=$folder/rw/upper,workdir=$folder/rw/work" "$folder/root"
cd "$folder/root"
for name in run var tmp; do mount -t tmpfs tmpfs "$name"; done
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mkdir -p var/lib/containerd var/lib/cni etc/cni/net.d old
ln -s ../run var/run
sed -i 's/SystemdCgroup = true/SystemdCgroup = false/; /conf_template/d
    s/^sandbox_image.*/&\nrestrict_oom_score_adj = true/' etc/containerd/config.toml
cp -R "$folder/net.d/." etc/cni/net.d/
[ ! -e "$folder/etc" ] || cp -R "$folder/etc/." etc/
[ ! -e "$folder/files" ] || cp -R "$folder/files" run/
[ ! -e "$folder/tools" ] || { mkdir run/tools; mount --bind "$folder/tools" run/tools; }
cp "$3" run/script
ip link set lo up
pivot_root . old
umount -l /old
export PATH=/usr/sbin:/usr/bin
exec chroot . /bin/sh -eu -c '
/usr/lib/edge-osbuild/start-containerd > /run/containerd.log 2>&1 &
until ctr version > /dev/null 2>&1; do sleep 0.2; done
. /run/script'
