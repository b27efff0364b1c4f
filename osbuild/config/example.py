"""The profile that `edge-osbuild new` writes, with every setting and its help as a comment."""

import re
from pathlib import Path

from osbuild.config.document import quote_text
from osbuild.config.profile import NAME, NAME_FORM
from osbuild.host import paths
from osbuild.shared.errors import UsageError

TEMPLATE = Path(__file__).with_name("example.yaml")
PLACEHOLDER = "@NAME@"


def render_example(name: str) -> str:
    """Return the text of a new profile called `name`. Raises `UsageError` if the name is invalid or shipped."""
    if not re.search(NAME, name) or name.endswith("\n"):
        plain = Path(name).name.removesuffix(".yaml")
        hint = f"write `{plain}`" if plain != name and re.search(NAME, plain) else "write a name such as `shop-floor`"
        raise UsageError(f"found the name {quote_text(name)}, expected {NAME_FORM}", hint=hint)
    if (paths.PROFILES / f"{name}.yaml").exists():
        message = f"{quote_text(name)} is the name of a shipped profile"
        raise UsageError(message, hint=f"choose another name, such as `my-{name}`")
    return TEMPLATE.read_text().replace(PLACEHOLDER, name)
