"""Merges a profile with the profiles that it extends."""

from osbuild.config.document import List, Map, MappingItem, Node, Scalar, quote_text
from osbuild.shared.errors import Error


def merge_documents(base: Map, extending: Map) -> Map:
    """Merge the document `extending` into `base`, which it extends.

    Mappings are merged, key by key and all the way down. Every other value replaces the inherited one, lists
    included. `KEY+` with a list appends to the inherited list. Raises `Error` if `KEY+` has nothing to append to.
    """
    entries = dict(base.entries)
    for name, entry in extending.entries.items():
        if name.endswith("+") and isinstance(entry.value, List):
            plain = name[:-1]
            if plain in extending.entries:
                hint = f"keep `{name}` to append to the inherited list, or `{plain}` to replace it"
                raise Error(f"found both {quote_text(plain)} and {quote_text(name)}", where=str(entry.mark), hint=hint)
            inherited = _list(entries.get(plain), name, entry)
            entries[plain] = MappingItem(entry.mark, List(inherited + entry.value.items, entry.value.mark))
        elif isinstance(entry.value, Map):
            old = entries[name].value if name in entries else None
            inherited_block = old if isinstance(old, Map) else Map({}, entry.value.mark)
            entries[name] = MappingItem(entry.mark, merge_documents(inherited_block, entry.value))
        else:
            entries[name] = entry
    return Map(entries, extending.mark)


def _list(inherited: MappingItem | None, name: str, entry: MappingItem) -> tuple[Node, ...]:
    if inherited is None or (isinstance(inherited.value, Scalar) and inherited.value.kind == "null"):
        return ()
    if isinstance(inherited.value, List):
        return inherited.value.items
    message = f"found {quote_text(name)}, but what is inherited is not a list"
    raise Error(
        message, where=str(entry.mark), hint=f"it is set at {inherited.value.mark}; replace it with `{name[:-1]}`"
    )
