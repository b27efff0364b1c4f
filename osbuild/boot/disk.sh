#!/bin/sh
# Finds the disk from which the boot loader has booted. The initrd's /init includes this file; tests do too, with other
# values of $sys and $dev.
#
# The GUID of the ESP identifies the disk: systemd-boot reports it in an EFI variable, boot.scr on the kernel command
# line. Disks that are copies of each other have the same GUID. Then the location of the booted disk decides, if it is
# known: the controller and port in the firmware's boot option, or U-Boot's kind of device.
sys=${sys:-/sys}
dev=${dev:-/dev}
cmdline=${cmdline:-/proc/cmdline}
# Vendor GUIDs of EFI variables: Boot Loader Interface, and UEFI specification 2.10, section 3.3.
LOADER=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
GLOBAL=8be4df61-93ca-11d2-aa0d-00e098032b8c

argument() { # the value of NAME=value on the kernel command line
    for word in $(cat "$cmdline"); do
        case $word in "$1"=*) echo "${word#*=}"; return ;; esac
    done
    return 1
}
variable() { # the path of EFI variable $2 of vendor $1
    echo "$sys/firmware/efi/efivars/$2-$1"
}

booted_partition() { # the GUID of the partition that the boot loader was started from, in lower case
    if ! argument edge.esp; then
        for name in LoaderDevicePartUUID StubDevicePartUUID; do
            # The attributes of the variable are control characters, the text is UTF-16.
            guid=$(cat "$(variable $LOADER $name)" 2> /dev/null | tr -cd 0-9A-Fa-f-)
            if [ -n "$guid" ]; then echo "$guid"; break; fi
        done
    fi | tr A-F a-f
}
another_try() { # whether the boot loader counts this boot and the slot has another try left
    case $(argument edge.tries) in
        '') cat "$(variable $LOADER LoaderBootCountPath)" 2> /dev/null | tr -d '\0' | grep -q '+[1-9][0-9]*-[0-9]*\.efi' ;;
        0-*) return 1 ;;
    esac
}

partition() { # the device of the partition named $2 on disk $1
    for entry in "$sys/class/block/$1"/*/partition; do
        entry=${entry%/partition}
        if grep -qsx "PARTNAME=$2" "$entry/uevent"; then echo "${entry##*/}"; return; fi
    done
    return 1
}
number() { # 32 bits at byte $2 of disk $1
    hexdump -v -s "$2" -n 4 -e '1/4 "%u"' "$dev/$1"
}
guids() { # GUIDs of partition $2 of disk $1, of both copies of the partition table (UEFI specification 2.10, section 5.3)
    read -r sector < "$sys/class/block/$1/queue/logical_block_size"
    read -r sectors < "$sys/class/block/$1/size" # of 512 bytes
    for header in "$sector" $((sectors * 512 - sector)); do
        [ "$(hexdump -v -s "$header" -n 8 -e '8/1 "%c"' "$dev/$1")" = "EFI PART" ] || continue
        # Sector numbers have 64 bits; the backup table needs the upper half on a disk larger than 2 TiB.
        first=$(($(number "$1" $((header + 72))) + ($(number "$1" $((header + 76))) << 32)))
        entry=$((first * sector + ($2 - 1) * $(number "$1" $((header + 84)))))
        hexdump -v -s $((entry + 16)) -n 16 -e '1/4 "%08x-" 2/2 "%04x-" 2/1 "%02x" "-" 6/1 "%02x" "\n"' "$dev/$1"
    done
}

variable_bytes() { # all bytes of a variable as numbers, because efivarfs cannot seek
    hexdump -v -e '1/1 "%u "' "$(variable "$@")" 2> /dev/null
}
firmware_location() { # the location of the firmware's boot option: PCI devices from the root, then port or target
    # shellcheck disable=SC2046  # a word for each byte
    set -- $(variable_bytes $GLOBAL BootCurrent)
    [ $# -eq 6 ] || return 1
    # shellcheck disable=SC2046
    set -- $(variable_bytes $GLOBAL "Boot$(printf %04X $(($5 + 256 * $6)))")
    [ $# -gt 10 ] || return 1
    shift 10 # attributes of the variable and the option, length of the path; the description follows
    while [ $# -gt 6 ] && [ "$1$2" != 00 ]; do shift 2; done
    shift 2
    location=
    while [ $# -ge 4 ]; do # nodes of the device path: type, subtype, length (section 10.3)
        length=$(($3 + 256 * $4))
        [ "$length" -ge 4 ] && [ "$length" -le $# ] || return 1
        case $1.$2 in
            127.*) break ;;
            1.1) location="$location $(printf %02x.%x "$6" "$5")" ;; # PCI: function, device
            3.18) location="$location ata:$(($5 + 256 * $6))" ;; # SATA: port of the controller
            3.2) location="$location scsi:$(($5 + 256 * $6)):$(($7 + 256 * $8))" ;; # SCSI: target, unit
        esac
        shift "$length"
    done
    [ -n "$location" ] && echo "${location# }"
}
disk_location() { # the same for disk $1, from sysfs
    path=$(readlink -f "$sys/class/block/$1")
    location=
    port=
    IFS=/
    for name in $path; do
        case $name in
            ????:??:??.?) location="$location ${name#????:??:}" ;;
            ata[0-9]*) port=" ata:$(($(cat "${path%%/"$name"/*}/$name/ata_port/$name/port_no") - 1))" ;;
            *:*:*:*) port=${port:- scsi:$(echo "$name" | cut -d : -f 3,4)} ;;
        esac
    done
    unset IFS
    echo "${location# }$port"
}
at_booted_location() { # whether the boot loader has read from the location of disk $1: 0 yes, 1 no, 2 unknown
    case $(argument edge.device):$1 in
        mmc:"${1#mmcblk}":mmcblk*) return 0 ;;
        mmc:*:mmcblk*) return 2 ;; # U-Boot may number the controllers in another order
        mmc:*) return 1 ;;
        *:*:mmcblk*) return 1 ;;
        usb:*) case $(readlink -f "$sys/class/block/$1") in */usb[0-9]*) return 2 ;; *) return 1 ;; esac ;;
        nvme:*:nvme*) return 2 ;;
        nvme:*) return 1 ;;
        ?*:*:*) return 2 ;;
    esac
    firmware=$(firmware_location) || return 2
    location=$(disk_location "$1")
    [ -n "$location" ] || return 2 # a disk with several paths, or one that is not on PCI
    case $firmware in
        "$location") return 0 ;;
        *:*) return 1 ;;
    esac
    # The path of the firmware ends at the controller, or in a node that sysfs shows differently (USB).
    case "$location " in
        "$firmware "*:*) return 2 ;;
    esac
    return 1
}

candidates() { # disks with the partitions of slot $1, and with an ESP of GUID $2 if that is known
    for disk in "$sys"/class/block/*/; do
        disk=$(basename "$disk")
        [ ! -e "$sys/class/block/$disk/partition" ] || continue
        partition "$disk" "root-$1" > /dev/null && partition "$disk" "root-$1-verity" > /dev/null || continue
        if [ -n "$2" ]; then
            esp=$(partition "$disk" esp) && read -r esp < "$sys/class/block/$esp/partition" || continue
            guids "$disk" "$esp" | grep -qx "$2" || continue
        fi
        echo "$disk"
    done
}
next_disk() { # the disk to try for slot $1 and GUID $2 (or empty), except those in $3; with $4, also at other locations
    unknown=
    elsewhere=
    others=$4
    for disk in $(candidates "$1" "$2"); do
        at_booted_location "$disk"
        at=$?
        case " $3 " in
            *" $disk "*)
                # The boot loader has booted from this disk and counts tries on it, so a copy must not replace it.
                [ $at -ne 0 ] || others=
                continue
                ;;
        esac
        case $at in
            0) echo "$disk"; return ;;
            2) unknown=${unknown:-$disk} ;;
            *) elsewhere=${elsewhere:-$disk} ;;
        esac
    done
    [ -z "$others" ] || unknown=${unknown:-$elsewhere}
    [ -n "$unknown" ] && echo "$unknown"
}
