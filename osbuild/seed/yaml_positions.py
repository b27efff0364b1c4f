"""Positions of keys in a YAML file, for error messages."""

import re

import yaml


def find_position(text: str, key: str) -> str:
    """Return `:LINE:COLUMN` of a dotted key such as `users[0].name`, or of the innermost part that is found."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return ""
    mark = None
    for part in re.findall(r"\[(\d+)\]|([^.\[\]]+)", key):
        step = _find_index(node, int(part[0])) if part[0] else _find_key(node, part[1].strip("'\""))
        if step is None:
            break
        mark, node = step
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _find_index(node: yaml.Node | None, index: int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and index < len(node.value):
        return node.value[index].start_mark, node.value[index]
    return None


def _find_key(node: yaml.Node | None, name: str) -> tuple[yaml.Mark, yaml.Node] | None:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        # cloud-init reads `-` in keys of users as `_`.
        if isinstance(key, yaml.ScalarNode) and key.value.replace("-", "_") == name.replace("-", "_"):
            return key.start_mark, value
    return None
