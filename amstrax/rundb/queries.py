"""What the embedded store understands of MongoDB's filters, projections, sort orders and updates.

Documents are plain dicts, as `bson.decode` gives them, one at a time; which documents, in which
order, and that no two writers meet is up to `amstrax.rundb.local`. Whatever is outside the subset
below is refused, never ignored or done otherwise than by MongoDB.

- filters: fields (with dots, through arrays), the operators in `FILTER_OPERATORS`
- projections: names of fields to have, or to leave out; ``_id`` on its own
- sort: one or several fields, 1 or -1
- updates: the operators in `UPDATE_OPERATORS`, ``$each``, and one ``$`` in a path
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import bson

from amstrax.exceptions import NotAvailable
from amstrax.rundb.matching import (
    CODEC,
    FILTER_OPERATORS,
    LOGICAL,
    MISSING,
    Document,
    compiled,
    leaves,
    order_key,
    parts_of,
    plain,
)
from amstrax.rundb.updating import UPDATE_OPERATORS, apply_update, check_update

__all__ = [
    "CODEC",
    "FILTER_OPERATORS",
    "UPDATE_OPERATORS",
    "Document",
    "Projection",
    "apply_update",
    "check_update",
    "checked_filter",
    "compiled",
    "decode_fields",
    "needed_bytes",
    "order_key",
    "parts_of",
    "sort_order",
    "sorted_documents",
    "top_level_fields",
    "values_at",
]

#: Number of bytes that a BSON element's value has, by its type, for types where that is always so
_FIXED_LENGTH = {
    0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16,
    0x7F: 0, 0xFF: 0,
}  # fmt: skip
#: What to add to the length that is written before the value
_LENGTH_PREFIX = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_REGEX = 0x0B


def checked_filter(condition: Mapping[str, Any] | None) -> Document:
    """Return a filter ready for `compiled`.

    Raises
    ------
    NotAvailable
        For operators that the embedded store does not know.
    """
    if condition is None:
        return {}
    if not isinstance(condition, Mapping):
        raise TypeError(f"a filter must be a mapping, not {condition!r}")
    checked = plain(dict(condition))
    compiled(checked)
    return checked


def top_level_fields(condition: Document) -> set[str]:
    """Return the fields of the document that a filter looks at."""
    fields: set[str] = set()
    for key, value in condition.items():
        if key in LOGICAL:
            fields.update(*map(top_level_fields, value))
        else:
            fields.add(key.partition(".")[0])
    return fields


def needed_bytes(condition: Document) -> list[bytes]:
    """Return byte strings that are in the BSON of every document that fulfils a filter.

    They are those of texts that some field, or an entry of an array, must be equal to. To look for
    them is far quicker than to decode a document.
    """
    needed = []
    for key, value in condition.items():
        if key == "$and":
            needed += [text for part in value for text in needed_bytes(part)]
        elif isinstance(value, str) and not key.startswith("$"):
            text = value.encode() + b"\0"
            needed.append(struct.pack("<i", len(text)) + text)
        elif isinstance(value, dict) and value.keys() == {"$elemMatch"}:
            needed += needed_bytes(value["$elemMatch"])
    return needed


class Projection:
    """Which fields of a document are wanted.

    Parameters
    ----------
    wanted
        As for pymongo: names, or a mapping of names to 1 (have) or 0 (leave out); None for all.

    Raises
    ------
    NotAvailable
        For operators, which the embedded store does not know.
    ValueError
        When fields are both asked for and left out.
    """

    def __init__(self, wanted: Mapping[str, Any] | Iterable[str] | None):
        if isinstance(wanted, str):
            raise TypeError(f"projection must be names of fields or a mapping, not {wanted!r}")
        if wanted is not None and not isinstance(wanted, Mapping):
            wanted = dict.fromkeys(wanted, 1)
        flags = {}
        for name, flag in (wanted or {}).items():
            if not isinstance(flag, (bool, int, float)) or "$" in name or name[:4] == "_id.":
                raise NotAvailable(
                    f"the embedded run database has no projection {{{name!r}: {flag!r}}}: give "
                    "names of fields with 1, or with 0"
                )
            flags[name] = bool(flag)
        self.with_id = flags.pop("_id", None)
        if len(set(flags.values())) > 1:
            raise ValueError(f"projection {wanted!r} both asks for fields and leaves some out")
        #: True: these and no others; False: all but these
        self.include = next(iter(flags.values()), bool(self.with_id))
        self._tree: Document = {}
        for name in flags:
            if any(other.startswith(f"{name}.") for other in flags):
                raise ValueError(f"projection {wanted!r} asks for {name!r} and for a part of it")
            _grow(self._tree, parts_of(name))

    def fields(self) -> set[str] | None:
        """Return the top-level fields that are needed, None for all."""
        if not self.include:
            return None
        return {*self._tree, "_id"}

    def __call__(self, document: Document) -> Document:
        """Return the wanted part of a document."""
        with_id = True if self.with_id is None else self.with_id
        if not self.include:
            left = _without(document, self._tree) if self._tree else dict(document)
            if not with_id:
                left.pop("_id", None)
            return left
        result = _only(document, self._tree)
        if not with_id or "_id" not in document:
            return result
        return {"_id": document["_id"], **result}


def _grow(tree: Document, path: Sequence[str]) -> None:
    """Add a path to a tree."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = None


def _only(value: Document, tree: Document) -> Document:
    result = {}
    for name, item in value.items():
        if name not in tree:
            continue
        below = tree[name]
        if below is None:
            result[name] = item
        elif isinstance(item, dict):
            result[name] = _only(item, below)
        elif isinstance(item, list):
            result[name] = _in_list(item, partial(_only, tree=below), keep=False)
    return result


def _without(value: Document, tree: Document) -> Document:
    result = {}
    for name, item in value.items():
        if name not in tree:
            result[name] = item
            continue
        below = tree[name]
        if below is None:
            continue
        if isinstance(item, dict):
            item = _without(item, below)
        elif isinstance(item, list):
            item = _in_list(item, partial(_without, tree=below), keep=True)
        result[name] = item
    return result


def _in_list(values: list, function: Callable[[Document], Document], keep: bool) -> list:
    """Apply to the documents in a list, at every depth; other values stay or go."""
    result: list[Any] = []
    for item in values:
        if isinstance(item, dict):
            result.append(function(item))
        elif isinstance(item, list):
            result.append(_in_list(item, function, keep))
        elif keep:
            result.append(item)
    return result


def sort_order(key: Any, direction: int | None = None) -> list[tuple[str, int]]:
    """Return pymongo's forms of a sort order as pairs of field and direction."""
    if isinstance(key, str):
        pairs = [(key, 1 if direction is None else direction)]
    else:
        items = key.items() if isinstance(key, Mapping) else key
        pairs = [(item, 1) if isinstance(item, str) else tuple(item) for item in items]
    for name, way in pairs:
        is_path = isinstance(name, str) and not any(map(str.isdigit, parts_of(name)))
        if not is_path or way not in (1, -1):
            raise NotAvailable(
                f"the embedded run database cannot sort by {name!r}: {way!r}; give fields with 1, "
                "or -1"
            )
    return pairs


def sorted_documents(
    items: list[Any], order: Sequence[tuple[str, int]], document: Callable[[Any], Document]
) -> list[Any]:
    """Return `items` in order, of which `document` gives the document of each."""
    for name, way in reversed(order):

        def key(item: Any, name: str = name, way: int = way) -> tuple:
            return _sort_key(document(item), parts_of(name), way)

        items = sorted(items, key=key, reverse=way < 0)
    return items


def _sort_key(document: Document, parts: Sequence[str], way: int) -> tuple:
    """Return the key of a document for a sort: of an array, its least or greatest element."""
    found = []
    for value, whole in leaves(document, parts):
        if isinstance(value, list) and not whole:
            found += value or [MISSING]
        else:
            found.append(None if value is MISSING else value)
    keys = [order_key(value) for value in found or [None]]
    return min(keys) if way > 0 else max(keys)


def values_at(document: Document, path: Sequence[str]) -> list[Any]:
    """Return the values at a path, through arrays, as ``distinct`` sees them."""
    values: list[Any] = []
    for value, _ in leaves(document, path):
        values += value if isinstance(value, list) else [value]
    return [value for value in values if value is not MISSING]


def decode_fields(data: bytes, fields: Iterable[str] | None) -> Document:
    """Return some top-level fields of a BSON document, without decoding the others.

    Parameters
    ----------
    data
        The document.
    fields
        Names of those wanted; None for all.
    """
    if fields is None:
        return bson.decode(data, CODEC)
    wanted = {name.encode() for name in fields}
    parts = []
    position, end = 4, len(data) - 1
    while wanted and position < end:
        kind = data[position]
        name_end = data.index(0, position + 1)
        value = name_end + 1
        if kind in _FIXED_LENGTH:
            after = value + _FIXED_LENGTH[kind]
        elif kind == _REGEX:
            after = data.index(0, data.index(0, value) + 1) + 1
        else:
            after = value + struct.unpack_from("<i", data, value)[0] + _LENGTH_PREFIX[kind]
        name = data[position + 1 : name_end]
        if name in wanted:
            wanted.discard(name)
            parts.append(data[position:after])
        position = after
    body = b"".join(parts)
    return bson.decode(struct.pack("<i", len(body) + 5) + body + b"\0", CODEC)
