"""What the embedded store understands of MongoDB's filters, projections, sort orders and updates.

Documents are plain dicts, as `bson.decode` gives them. Matching and updating follow mongomock, one
document at a time; which documents, in which order, and that no two writers meet is up to
`amstrax.rundb.local`. Whatever is outside the subset below is refused, never ignored.

- filters: fields (with dots, through arrays), the operators in `FILTER_OPERATORS`
- projections: names of fields to have, or to leave out; ``_id`` on its own
- sort: one or several fields, 1 or -1
- updates: the operators in `UPDATE_OPERATORS`
"""

import functools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import bson

from amstrax.exceptions import NotAvailable

Document = dict[str, Any]

FILTER_OPERATORS = frozenset(
    ("$and", "$or", "$nor", "$not", "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin")
    + ("$exists", "$type", "$regex", "$options", "$elemMatch", "$size", "$all")
)
UPDATE_OPERATORS = frozenset(
    ("$set", "$unset", "$setOnInsert", "$inc", "$min", "$max")
    + ("$push", "$addToSet", "$pull", "$pullAll")
)
_LOGICAL = ("$and", "$or", "$nor")

#: Number of bytes that a BSON element's value has, by its type, for types where that is always so
_FIXED_LENGTH = {
    0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16,
    0x7F: 0, 0xFF: 0,
}  # fmt: skip
#: What to add to the length that is written before the value
_LENGTH_PREFIX = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_REGEX = 0x0B


def checked_filter(condition: Mapping[str, Any] | None) -> Document:
    """Return a filter ready for `matches`.

    Raises
    ------
    NotAvailable
        For operators that the embedded store does not know.
    """
    if condition is None:
        return {}
    if not isinstance(condition, Mapping):
        raise TypeError(f"a filter must be a mapping, not {condition!r}")
    return _plain(condition)


def matches(document: Document, condition: Document) -> bool:
    """Return whether a document fulfils a filter from `checked_filter`."""
    if not condition:
        return True
    from mongomock.filtering import filter_applies

    try:
        return filter_applies(condition, document)
    except (NotImplementedError, TypeError):
        # A value of a type that mongomock does not compare
        return filter_applies(comparable(condition), comparable(document))


def comparable(value: Any) -> Any:
    """Return a value in which types that mongomock does not compare are others, of like order.

    Decimals are numbers, dates beyond Python's the first and the last; what cannot be compared with
    anything is empty binary data, which is neither below nor above numbers, texts and dates.
    """
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, bson.Decimal128):
        return float(value.to_decimal())
    if isinstance(value, bson.DatetimeMS):
        return datetime.min if int(value) < 0 else datetime.max
    if isinstance(value, (type(None), bool, int, float, str, bytes, datetime, bson.ObjectId)):
        return value
    return b""


@functools.cache
def codec() -> Any:
    """Return how documents are decoded: dates beyond Python's stay what they are."""
    from bson.codec_options import CodecOptions, DatetimeConversion

    return CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def top_level_fields(condition: Document) -> set[str]:
    """Return the fields of the document that a filter looks at."""
    fields: set[str] = set()
    for key, value in condition.items():
        if key in _LOGICAL:
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


def _plain(value: Any) -> Any:
    """Return `value` with types as in decoded BSON, operators checked."""
    if isinstance(value, Mapping):
        for key in value:
            if key.startswith("$") and key not in FILTER_OPERATORS:
                raise NotAvailable(
                    f"the embedded run database has no filter operator {key}: it has "
                    f"{', '.join(sorted(FILTER_OPERATORS))}"
                )
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value


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
            if not isinstance(flag, (bool, int, float)) or "$" in name:
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
            _grow(self._tree, name.split("."))

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
    """Add a path to a tree; a shorter path, which asks for more, wins."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if tree is None:
            return
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
        if not isinstance(name, str) or way not in (1, -1):
            raise NotAvailable(
                f"the embedded run database cannot sort by {name!r}: {way!r}; give fields with 1, "
                "or -1"
            )
    return pairs


def sorted_documents(
    items: list[Any], order: Sequence[tuple[str, int]], document: Callable[[Any], Document]
) -> list[Any]:
    """Return `items` in order, of which `document` gives the document of each."""
    from mongomock.filtering import resolve_sort_key

    for name, way in reversed(order):

        def key(item: Any, name: str = name) -> Any:
            return resolve_sort_key(name, document(item))

        def key_of_odd(item: Any, name: str = name) -> Any:
            return resolve_sort_key(name, comparable(document(item)))

        try:
            items = sorted(items, key=key, reverse=way < 0)
        except (NotImplementedError, TypeError):
            items = sorted(items, key=key_of_odd, reverse=way < 0)
    return items


def values_at(value: Any, path: Sequence[str]) -> list[Any]:
    """Return the values at a path, through arrays, as ``distinct`` sees them."""
    if not path:
        return list(value) if isinstance(value, list) else [value]
    if isinstance(value, dict):
        return values_at(value[path[0]], path[1:]) if path[0] in value else []
    if isinstance(value, list):
        return [v for item in value if isinstance(item, dict) for v in values_at(item, path)]
    return []


def apply_update(
    document: Document | None, condition: Document, update: Mapping[str, Any]
) -> Document:
    """Return a document with an update applied.

    Parameters
    ----------
    document
        Document to update; it is not changed. None to make one, of what the filter says (upsert).
    condition
        Filter that has found it: ``$`` in a field's name is the array element that it matched.
    update
        Update with operators.

    Raises
    ------
    pymongo.errors.WriteError
        When a value is not of the kind that the operator needs.
    NotAvailable
        For operators that the embedded store does not know.
    """
    import mongomock
    from pymongo.errors import WriteError

    if not isinstance(update, Mapping) or not update:
        raise ValueError(f"an update must be a mapping of operators, not {update!r}")
    for operator in update:
        if operator not in UPDATE_OPERATORS:
            if not operator.startswith("$"):
                raise ValueError(f"an update must be made of operators as $set, not {operator!r}")
            raise NotAvailable(
                f"the embedded run database has no update operator {operator}: it has "
                f"{', '.join(sorted(UPDATE_OPERATORS))}"
            )
    paths = [path for fields in update.values() for path in fields]
    for path in paths:
        if any(part.startswith("$") and part != "$" for part in path.split(".")):
            raise NotAvailable(f"the embedded run database cannot update {path!r}: $ alone can be")
    plain = bson.decode(bson.encode(update), codec())
    scratch: Any = mongomock.MongoClient().db.scratch
    if document is None:
        scratch.update_one(condition, plain, upsert=True)
        made: Any = scratch.find_one()
        return {"_id": made.pop("_id"), **made}
    # mongomock sees the part that matters: the rest stays as it was, to the last bit
    touched = {path.partition(".")[0] for path in paths}
    # Which element of an array the filter has found is for it to find again
    is_positional = any("$" in path.split(".") for path in paths)
    if is_positional:
        touched |= top_level_fields(condition) - {"_id"}
    _check_pushes(document, plain)
    scratch.insert_one({"_id": 0} | {k: v for k, v in document.items() if k in touched})
    try:
        scratch.update_one(_without_id(condition) if is_positional else {}, plain)
    except TypeError as error:
        # How mongomock says that a value is of a kind that the operator cannot take
        raise WriteError(f"cannot update {', '.join(paths)}: {error}", 14) from error
    after: Any = scratch.find_one()
    if after.pop("_id") != 0:
        raise WriteError("an update cannot change _id", 66)
    result = {
        k: after.pop(k) if k in after else v
        for k, v in document.items()
        if k not in touched or k in after
    }
    return result | after


def _without_id(condition: Document) -> Document:
    """Return a filter that the part of a document without its true ``_id`` fulfils alike."""
    return {key: value for key, value in condition.items() if key not in ("_id", *_LOGICAL)}


def _check_pushes(document: Document, update: Document) -> None:
    from pymongo.errors import WriteError

    for operator in ("$push", "$addToSet", "$pull"):
        for path in update.get(operator, ()):
            if "." not in path and not isinstance(document.get(path, []), list):
                if operator == "$pull" and path not in document:
                    continue
                raise WriteError(
                    f"the field {path!r} must be an array for {operator}, but is "
                    f"{type(document[path]).__name__}"
                )


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
        return bson.decode(data, codec())
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
    return bson.decode(struct.pack("<i", len(body) + 5) + body + b"\0", codec())
