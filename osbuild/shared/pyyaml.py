"""PyYAML, the only package beyond the standard library that the agent uses.

It is in every image, because cloud-init depends on it. Another parser would accept other files than cloud-init does.
`edge-agent` starts Python without site packages, so the folder of Debian's packages is added here.
"""

import sys
from functools import cache
from typing import Any

DEBIAN = "/usr/lib/python3/dist-packages"
VALUES = 20_000  # per document, with aliases and merge keys expanded: a few lines can expand to billions
LEVELS = 40  # of nesting; cloud-init processes its configuration recursively
TEXT = "tag:yaml.org,2002:str"
DIGITS = 100  # characters of a number; parsing can take quadratic time


def import_yaml() -> Any:
    """The module `yaml`."""
    try:
        import yaml
    except ImportError:
        sys.path.append(DEBIAN)
        import yaml
    return yaml


@cache
def loader() -> Any:
    """A SafeLoader that rejects documents that are too large, too deep or contain themselves.

    After loading, `repeated` lists (key, position) of each repeated key; YAML uses the last one. Keys that YAML would
    not read as text, such as `on` or `80`, become text; `odd` is the position of the first one, or None.
    """
    # Errors never quote the document: an alias or a tag may be a password without quotes.
    yaml = import_yaml()

    safe: Any = yaml.SafeLoader

    class LimitedLoader(safe):  # type: ignore[misc]
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.repeated: list[tuple[str, Any]] = []
            self.odd: Any = None
            self.count = self.depth = 0
            self.sizes: dict[int, tuple[int, int]] = {}  # node id -> its number of values and levels, itself included

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            self.count += 1
            self.limit(self.count, self.depth + 1, event)
            if isinstance(event, yaml.AliasEvent) and event.anchor not in self.anchors:
                self.stop("an alias without an anchor; put a text that begins with `*` in quotes", event)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            if isinstance(event, yaml.AliasEvent):
                if id(node) not in self.sizes:
                    self.stop("an alias that contains itself", event)
                return node
            if node.id == "scalar" and node.tag.endswith((":int", ":float")) and len(node.value) > DIGITS:
                self.stop(f"a number of {len(node.value)} characters", event)
            children = [child for pair in node.value for child in pair] if node.id == "mapping" else node.value
            sizes = [self.sizes[id(child)] for child in children] if node.id != "scalar" else []
            size = 1 + sum(size for size, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
            self.limit(*size, event)
            self.sizes[id(node)] = size
            if node.id == "mapping":
                self.check_keys(node)
            return node

        def fetch_more_tokens(self) -> Any:
            try:
                return super().fetch_more_tokens()
            except (ValueError, OverflowError):  # from chr() of an invalid code point, or int() of thousands of digits
                raise yaml.scanner.ScannerError(
                    None, None, "an escape that is not a character", self.get_mark()
                ) from None

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except yaml.YAMLError:
                raise
            except Exception as error:  # such as a date with a month 13, or `!!bool 5`
                kind = str(node.tag).rpartition(":")[2]
                reason = f": {error}" if kind == "timestamp" and isinstance(error, ValueError) else ""
                raise yaml.constructor.ConstructorError(
                    None, None, f"not a valid {kind}{reason}", node.start_mark
                ) from None

        def check_keys(self, node: Any) -> None:
            seen = set()
            for key, _ in node.value:
                if key.id != "scalar" or key.tag.endswith(":merge"):
                    continue
                if key.value in seen:
                    self.repeated.append((key.value, key.start_mark))
                seen.add(key.value)
                if key.tag != TEXT:
                    self.odd, key.tag = self.odd or key.start_mark, TEXT

        def limit(self, values: int, levels: int, event: Any) -> None:
            if levels > LEVELS:
                self.stop(f"more than {LEVELS} levels", event)
            if values > VALUES:
                self.stop(f"more than {VALUES} values", event)

        def stop(self, reason: str, event: Any) -> None:
            raise yaml.composer.ComposerError(None, None, reason, event.start_mark)

        def refuse_tag(self, node: Any) -> None:
            reason = "an unknown tag; put a text that begins with `!` in quotes"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)

    LimitedLoader.add_constructor(None, LimitedLoader.refuse_tag)
    return LimitedLoader
