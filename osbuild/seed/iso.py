"""A seed medium: an ISO 9660 image labelled CIDATA, with Joliet and Rock Ridge names."""

import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pycdlib
from pycdlib import dates, headervd, utils
from pycdlib import pycdlib as main_module

from osbuild.shared.errors import Error

LABEL = "CIDATA"  # cloud-init's documentation, "NoCloud"
EPOCH = 315532800  # 1980-01-01, in seconds
LATEST = 5869583999  # 2155-12-31, the last day of ISO 9660


def make_iso(files: Mapping[str, bytes]) -> bytes:
    """Return a reproducible image with `files` in its top folder.

    Dates are $SOURCE_DATE_EPOCH (reproducible-builds.org) or 1980-01-01. Raises `Error` if the variable is invalid.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", str(EPOCH))
    if not re.fullmatch("[0-9]{1,10}", epoch) or int(epoch) > LATEST:
        raise Error(
            f"`{epoch}` is not a number of seconds that a medium can have", where="SOURCE_DATE_EPOCH", hint="unset it"
        )
    output = io.BytesIO()
    with frozen_clock(int(epoch)):
        image = pycdlib.PyCdlib()
        image.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
        try:
            for number, (name, data) in enumerate(files.items()):
                image.add_fp(
                    io.BytesIO(data),
                    len(data),
                    iso_path=f"/FILE{number}.;1",
                    rr_name=name,
                    joliet_path=f"/{name}",
                    file_mode=0o100400,
                )
            image.write_fp(output)
        finally:
            image.close()
    return output.getvalue()


@contextmanager
def frozen_clock(seconds: int) -> Iterator[None]:
    """Give pycdlib a fixed clock, because it dates files by the current time and offers no other way."""
    clock = SimpleNamespace(**{**vars(time), "time": lambda: float(seconds), "localtime": time.gmtime})
    modules: tuple[Any, ...] = (dates, headervd, utils, main_module)
    before = [module.time for module in modules]
    for module in modules:
        module.time = clock
    try:
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            module.time = original
