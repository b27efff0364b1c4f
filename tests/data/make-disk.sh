#!/bin/sh
# Makes disk.img.xz, the small disk that the tests of `inspect` read, with the tools that make real images, and beside
# it two FAT file systems, each with a file in two pieces.
# Needs Debian 13 with: binutils cryptsetup-bin dosfstools e2fsprogs erofs-utils mtools systemd-repart xz-utils
set -eu
out=$(realpath "${1:-disk.img.xz}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export SOURCE_DATE_EPOCH=1767225600
seed=8c3a7e46-6a0b-4f2e-9d3f-0d5a5a1d7c11

mkdir -p root/usr/lib/edge-osbuild root/etc esp/EFI/Linux esp/EFI/BOOT esp/loader repart.d
echo '{"name": "tiny", "version": "1.0.0"}' > root/usr/lib/edge-osbuild/image.json
yes "a line that compresses" | head -n 4000 > root/etc/words

cat > repart.d/10-esp.conf <<END
[Partition]
Type=esp
Label=esp
Format=vfat
CopyFiles=/esp:/
SizeMinBytes=34M
SizeMaxBytes=34M
END
cat > repart.d/20-root-a.conf <<END
[Partition]
Type=root-x86-64
Label=root-a
Format=erofs
Compression=lz4hc
CopyFiles=/root:/
Verity=data
VerityMatchKey=a
SizeMinBytes=2M
SizeMaxBytes=2M
END
cat > repart.d/21-verity-a.conf <<END
[Partition]
Type=root-x86-64-verity
Label=verity-a
Verity=hash
VerityMatchKey=a
SizeMinBytes=2M
SizeMaxBytes=2M
END
cat > repart.d/30-root-b.conf <<END
[Partition]
Type=root-x86-64
Label=root-b
SizeMinBytes=2M
SizeMaxBytes=2M
END
cat > repart.d/31-verity-b.conf <<END
[Partition]
Type=root-x86-64-verity
Label=verity-b
SizeMinBytes=2M
SizeMaxBytes=2M
END
cat > repart.d/40-data.conf <<END
[Partition]
Type=linux-generic
Label=data
SizeMinBytes=4M
SizeMaxBytes=4M
END

repart() {
    systemd-repart --offline=yes --empty=allow --dry-run=no --root="$work" --definitions="$work/repart.d" \
        --seed="$seed" --size="$2" --json=short "$1"
}

# The boot loader's entry carries the root hash, which is known only once the slot is made: so twice.
truncate -s 48M first.img
repart first.img 48M > first.json
hash=$(grep -o '"roothash":"[0-9a-f]*"' first.json | head -n 1 | cut -d '"' -f 4)
printf 'root=/dev/mapper/root roothash=%s rauc.slot=A ro' "$hash" > cmdline
printf 'ID=debian\nPRETTY_NAME="Tiny 1.0.0"\nVERSION_ID="13"\nIMAGE_VERSION=1.0.0\n' > osrel
printf '6.12.0-test-amd64' > release
head -c 100000 /dev/zero > linux
printf '.text\n.globl _start\n_start: ret\n' | as -o stub.o -
ld -m i386pep --subsystem 10 --entry _start -o stub.efi stub.o
objcopy --add-section .osrel=osrel --change-section-vma .osrel=0x150000000 \
    --add-section .cmdline=cmdline --change-section-vma .cmdline=0x150010000 \
    --add-section .uname=release --change-section-vma .uname=0x150020000 \
    --add-section .linux=linux --change-section-vma .linux=0x150030000 \
    stub.efi "esp/EFI/Linux/edge-a+3.efi"
cp stub.efi esp/EFI/BOOT/BOOTX64.EFI
printf 'timeout 0\n' > esp/loader/loader.conf
truncate -s 48M disk.img
repart disk.img 48M > /dev/null
# systemd-repart makes no ext4 of less than 32 MiB, and each test that reads the whole disk takes longer with a large one.
mkfs.ext4 -q -F -O ^has_journal -b 4096 -L data -U 8c9c5eb3-059e-4cbd-9896-007acf14f2e4 \
    -E hash_seed=8c9c5eb3-059e-4cbd-9896-007acf14f2e4,offset=$((43 * 1024 * 1024)) disk.img 4M
xz -9e -T1 -c disk.img > "$out"
echo "$out: root hash $hash"

# FAT12 (a floppy) and FAT16: the hole that the first file leaves is filled by the last.
seq 20000 | head -c 20000 > first
seq 90000 | head -c 30000 > second
seq 500000 | head -c 400000 > third
for bits in 12 16; do
    case $bits in
        12) mformat -C -i fat.img -f 1440 :: ;;
        16) mformat -C -i fat.img -T 65536 -c 4 :: ;;
    esac
    mmd -i fat.img "::a folder with a long name"
    mcopy -i fat.img first ::first
    mcopy -i fat.img second "::a folder with a long name/Zweite Prüfung.txt"
    mdel -i fat.img ::first
    mcopy -i fat.img third ::THIRD.BIN
    : > nothing
    mcopy -i fat.img nothing ::nothing
    xz -9e -T1 -c fat.img > "$(dirname "$out")/fat$bits.img.xz"
    rm fat.img
done
