"""Limits of a seed. They keep the time to parse it far below the time limit of the first boot, even on a slow board."""

from dataclasses import dataclass

from osbuild.shared.seed.refused import SeedRefused

UNPACKED = 16 * 2**20  # bytes of all gzip data after decompression
TEXT = 6 * 2**20  # bytes of all text in YAML; the slowest takes PyYAML about a second for each MiB
TOTAL_VALUES = 100_000  # values of all YAML documents; 20 microseconds each
BOUNDARIES = 20_000  # lines of a MIME message that begin with `--`
HEADERS = 64 * 1024  # bytes of the headers of a MIME part, which are parsed several times


@dataclass
class SeedBudget:
    """What the files of one seed, with all their parts, may still use."""

    unpacked: int = UNPACKED
    text: int = TEXT
    values: int = TOTAL_VALUES

    def take_unpacked(self, size: int, name: str) -> None:
        """Count `size` bytes of decompressed data. Raises `SeedRefused`."""
        self.unpacked -= size
        if self.unpacked < 0:
            raise SeedRefused(f"{name}: gzip data is too large: a seed may have {UNPACKED // 2**20} MiB in total")

    def take_text(self, size: int, name: str) -> None:
        """Count `size` bytes of text to parse. Raises `SeedRefused`."""
        self.text -= size
        if self.text < 0:
            raise SeedRefused(f"{name}: a seed may have {TEXT // 2**20} MiB of YAML in total")

    def take_values(self, count: int, name: str) -> None:
        """Count the values of a document. Raises `SeedRefused`."""
        self.values -= count
        if self.values < 0:
            raise SeedRefused(f"{name}: a seed may have {TOTAL_VALUES} values in total")
