"""PyYAML, the only package beyond the standard library that the agent uses.

It is in every image, because cloud-init depends on it, and it decides what cloud-init sees: another parser would accept
other files. `edge-agent` starts Python without site packages, so Debian's folder is added here.
"""

import sys
from typing import Any

DEBIAN = "/usr/lib/python3/dist-packages"


def library() -> Any:
    """The module `yaml`."""
    try:
        import yaml
    except ImportError:
        sys.path.append(DEBIAN)
        import yaml
    return yaml
