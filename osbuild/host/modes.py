"""File modes that do not depend on the umask of a checkout or of a build."""

import stat

UMASK = 0o022  # of the programs that create files of an image
CAPABILITY = "security.capability"  # the only extended attribute that is copied into an image


def fixed_mode(mode: int) -> int:
    """Return the permission bits in an image of a file or folder with `st_mode` `mode`.

    git keeps only whether a file is executable, and a umask decides the rest: 0644 or 0755. Bits that no umask makes
    were set on purpose and are kept: setuid and setgid of files, sticky, and files that their owner can't write.
    """
    bits = stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        bits &= ~stat.S_ISGID  # a folder inherits it from the one it is created in, such as a team's checkout
        return bits if bits & stat.S_ISVTX else 0o755
    special = bits & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
    if special or not bits & stat.S_IWUSR:
        return bits
    return 0o755 if bits & stat.S_IXUSR else 0o644
