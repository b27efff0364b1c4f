"""PyYAML, the only package beyond the standard library that the agent uses.

It is in every image, because cloud-init depends on it, and it decides what cloud-init sees: another parser would accept
other files. `edge-agent` starts Python without site packages, so Debian's folder is added here.
"""

import sys
from functools import cache
from typing import Any

DEBIAN = "/usr/lib/python3/dist-packages"
VALUES = 20_000  # of one document, once aliases and merge keys are followed: a few lines can stand for billions
LEVELS = 40  # cloud-init walks its configuration recursively
TEXT = "tag:yaml.org,2002:str"
DIGITS = 100  # characters of a number; some take time that grows with the square of their length


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
    """A SafeLoader that stops at what is too large, too deep or contains itself, before anything is made of it.

    Its errors never quote a text: an alias or a tag may be a password that should be in quotes.

    Afterwards `repeated` holds (key, position) of every key that a mapping has already: YAML's loaders take the last
    one. A key that YAML takes for something else than a text, such as `on` or `80`, becomes a text; `odd` is where the
    first one is.
    """
    yaml = import_yaml()

    safe: Any = yaml.SafeLoader

    class Loader(safe):  # type: ignore[misc]
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.repeated: list[tuple[str, Any]] = []
            self.odd: Any = None
            self.count = self.depth = 0
            self.sizes: dict[int, tuple[int, int]] = {}  # of each finished node: values and levels, itself included

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            self.count += 1
            self.limit(self.count, self.depth + 1, event)
            if isinstance(event, yaml.AliasEvent) and event.anchor not in self.anchors:
                self.stop("an alias that stands for nothing: a text that begins with `*` must be in quotes", event)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            if isinstance(event, yaml.AliasEvent):
                if id(node) not in self.sizes:
                    self.stop("an alias that contains itself", event)
                return node
            if node.id == "scalar" and node.tag.endswith((":int", ":float")) and len(node.value) > DIGITS:
                self.stop(f"a number of {len(node.value)} characters", event)
            inner = [part for pair in node.value for part in pair] if node.id == "mapping" else node.value
            sizes = [self.sizes[id(part)] for part in inner] if node.id != "scalar" else []
            size = 1 + sum(size for size, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
            self.limit(*size, event)
            self.sizes[id(node)] = size
            if node.id == "mapping":
                self.check_keys(node)
            return node

        def fetch_more_tokens(self) -> Any:
            try:
                return super().fetch_more_tokens()
            except (ValueError, OverflowError):  # chr() of what is no character, int() of thousands of digits
                raise yaml.scanner.ScannerError(None, None, "an escape that is no character", self.get_mark()) from None

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except yaml.YAMLError:
                raise
            except Exception as error:  # such as a date with a month 13, or `!!bool 5`
                kind = str(node.tag).rpartition(":")[2]
                reason = f": {error}" if kind == "timestamp" and isinstance(error, ValueError) else ""
                raise yaml.constructor.ConstructorError(None, None, f"no {kind}{reason}", node.start_mark) from None

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
            reason = "an unknown tag: a text that begins with `!` must be in quotes"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)

    Loader.add_constructor(None, Loader.refuse_tag)
    return Loader
