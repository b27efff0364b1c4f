"""JSON from an untrusted source."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises `ValueError`, also if it is nested too deeply for Python."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
