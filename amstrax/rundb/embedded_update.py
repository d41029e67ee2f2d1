"""Updates of the embedded store, as MongoDB applies them: to one document, all or nothing.

What is not in `UPDATE_OPERATORS`, or would not be done as MongoDB does it, is refused with
`NotAvailable`; what MongoDB refuses too, with a `pymongo.errors.WriteError`.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bson import Decimal128, Int64, ObjectId, Regex

from amstrax.exceptions import NotAvailable
from amstrax.rundb.embedded_query import (
    LOGICAL,
    MISSING,
    Document,
    compiled,
    element_test,
    equal,
    is_operators,
    leaves,
    order_key,
    parts_of,
    plain,
)

UPDATE_OPERATORS = frozenset(
    ("$set", "$unset", "$setOnInsert", "$inc", "$min", "$max")
    + ("$push", "$addToSet", "$pull", "$pullAll")
)
#: MongoDB's codes of errors
_FAILED, _CONFLICT, _TYPE_MISMATCH, _NOT_VIABLE, _IMMUTABLE = 2, 40, 14, 28, 66
#: Conditions that say nothing of what an upsert makes, and those in which no element is matched
_NO_VALUE = frozenset(("$gt", "$gte", "$lt", "$lte", "$ne", "$nin", "$exists", "$type", "$size"))
_NEGATIVE = frozenset(("$ne", "$nin", "$not", "$exists", "$size", "$all", "$type"))
#: An array is not made longer by more than this
_MOST_NULLS = 1000


def check_update(update: Any) -> Document:
    """Return an update with types as in decoded BSON.

    Raises
    ------
    NotAvailable, ValueError, pymongo.errors.WriteError
        For what cannot be one.
    """
    if isinstance(update, list):
        raise NotAvailable("the embedded run database has no pipelines as updates: give operators")
    if not isinstance(update, Mapping) or not update:
        raise ValueError(f"an update must be a mapping of operators, not {update!r}")
    paths: list[str] = []
    for operator, fields in update.items():
        if not operator.startswith("$"):
            raise ValueError(f"an update must be made of operators as $set, not {operator!r}")
        if operator not in UPDATE_OPERATORS:
            raise NotAvailable(
                f"the embedded run database has no update operator {operator}: it has "
                f"{', '.join(sorted(UPDATE_OPERATORS))}"
            )
        if not isinstance(fields, Mapping):
            raise _error(f"{operator}: {fields!r} is no mapping of fields", _FAILED)
        paths += fields
    for path in paths:
        parts = parts_of(path)
        if any(p.startswith("$") and p != "$" for p in parts) or parts.count("$") > 1:
            raise NotAvailable(f"the embedded run database cannot update {path!r}: one $ can be")
        if parts[0] == "$":
            raise _error(f"the path {path!r} begins with $", _FAILED)
    ordered = sorted(paths, key=_path_order)
    for one, other in zip(ordered, ordered[1:], strict=False):
        if one == other or other.startswith(f"{one}."):
            raise _error(f"two updates of {one!r} are in conflict: {other!r}", _CONFLICT)
    changes = {operator: plain(dict(fields)) for operator, fields in update.items()}
    for operator, fields in changes.items():
        for path, value in fields.items():
            _step(operator, value, path)
    return changes


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
    changes = check_update(update)
    made = document is None
    before = _from_filter(condition) if document is None else document
    steps = [
        (path, operator, value)
        for operator, fields in changes.items()
        if made or operator != "$setOnInsert"
        for path, value in fields.items()
    ]
    touched = {path.partition(".")[0] for path, _, _ in steps}
    after = {k: copy.deepcopy(v) if k in touched else v for k, v in before.items()}
    # Fields that are new come in this order
    for path, operator, value in sorted(steps, key=lambda step: _path_order(step[0])):
        parts = parts_of(path)
        if "$" in parts:
            parts = _with_index(parts, after, condition)
        _step(operator, value, path)(after, parts)
    _id = before.get("_id", MISSING)
    if _id is not MISSING and not equal(after.get("_id", MISSING), _id):
        raise _error(f"an update cannot change _id ({_id!r})", _IMMUTABLE)
    if made:
        return {"_id": after.pop("_id", None) if "_id" in after else ObjectId(), **after}
    return after


def _step(operator: str, value: Any, path: str) -> Callable[[Document, list[str]], None]:
    """Return a function that does what an operator says to a document, at the parts of a path."""
    if operator == "$unset":
        return _unset
    if operator in ("$pull", "$pullAll"):
        test = _pull_test(operator, value, path)
        return lambda document, parts: _pull(document, parts, path, test)
    change = _changes(operator, value, path)
    return lambda document, parts: _change(document, parts, path, change)


def _changes(operator: str, value: Any, path: str) -> Callable[[Any], Any]:
    """Return a function from the old value at a path, or `MISSING`, to the new one."""
    if operator in ("$set", "$setOnInsert"):
        return lambda old: value
    if operator == "$inc":
        _sum(MISSING, value, path)
        return lambda old: _sum(old, value, path)
    if operator in ("$min", "$max"):

        def extreme(old: Any) -> Any:
            if old is MISSING:
                return value
            above = order_key(value) > order_key(old)
            same = order_key(value) == order_key(old)
            return value if not same and above is (operator == "$max") else old

        return extreme
    items = [value]
    if isinstance(value, Mapping) and any(name.startswith("$") for name in value):
        if value.keys() != {"$each"}:
            raise NotAvailable(
                f"the embedded run database has no {', '.join(value)} of {operator}: it has $each"
            )
        items = value["$each"]
        if not isinstance(items, list):
            raise _error(f"$each of {operator} for {path!r} must be a list", _FAILED)

    def longer(old: Any) -> list:
        if old is not MISSING and not isinstance(old, list):
            raise _no_array(operator, path, old)
        result = [] if old is MISSING else list(old)
        for item in items:
            if operator == "$push" or not any(equal(item, other) for other in result):
                result.append(item)
        return result

    return longer


def _sum(old: Any, value: Any, path: str) -> Any:
    for number in (value, old):
        if isinstance(number, Decimal128):
            raise NotAvailable("the embedded run database cannot $inc a Decimal128")
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not is_number and number is not MISSING:
            raise _error(f"cannot $inc {path!r}: {number!r} is no number", _TYPE_MISMATCH)
    if old is MISSING:
        return value
    result = old + value
    if isinstance(result, int) and not -(2**63) <= result < 2**63:
        raise _error(f"cannot $inc {path!r} beyond 8 bytes", _FAILED)
    is_long = isinstance(old, Int64) or isinstance(value, Int64)
    return Int64(result) if is_long and isinstance(result, int) else result


def _pull_test(operator: str, value: Any, path: str) -> Callable[[Any], bool]:
    if operator == "$pullAll":
        if not isinstance(value, list):
            raise _error(f"$pullAll of {path!r} needs a list", _FAILED)
        return lambda item: any(equal(item, other) for other in value)
    if is_operators(value) or isinstance(value, Regex):
        condition = compiled({"x": value})
        return lambda item: condition({"x": item})
    if isinstance(value, Mapping):
        condition = compiled(value)
        return lambda item: isinstance(item, Mapping) and condition(item)
    return lambda item: equal(item, value)


def _pull(document: Document, parts: list[str], path: str, test: Callable[[Any], bool]) -> None:
    found = _parent(document, parts)
    if found is None:
        return
    parent, last = found
    old = parent[last]
    if not isinstance(old, list):
        raise _no_array("$pull", path, old)
    parent[last] = [item for item in old if not test(item)]


def _unset(document: Document, parts: list[str]) -> None:
    found = _parent(document, parts)
    if found is None:
        return
    parent, last = found
    if isinstance(parent, list):
        parent[last] = None
    else:
        del parent[last]


def _parent(document: Document, parts: list[str]) -> tuple[Any, Any] | None:
    """Return what holds the value at a path, and its key or index there; None without one."""
    value: Any = document
    for i, part in enumerate(parts):
        key: Any = part
        if isinstance(value, list):
            if not _is_index(part) or int(part) >= len(value):
                return None
            key = int(part)
        elif not isinstance(value, dict) or part not in value:
            return None
        if i == len(parts) - 1:
            return value, key
        value = value[key]
    return None


def _change(document: Document, parts: list[str], path: str, change: Callable[[Any], Any]) -> None:
    """Set a value at a path, and make the documents on the way there."""
    value: Any = document
    for i, part in enumerate(parts):
        key: Any = part
        old: Any
        if isinstance(value, list):
            if not _is_index(part):
                raise _error(f"cannot create field {part!r} of {path!r} in an array", _NOT_VIABLE)
            key = int(part)
            if key > len(value) + _MOST_NULLS:
                raise NotAvailable(f"the embedded run database makes no array so long: {path!r}")
            is_new = key >= len(value)
            old = MISSING if is_new else value[key]
        elif isinstance(value, dict):
            is_new = False
            old = value.get(part, MISSING)
        else:
            raise _error(
                f"cannot create field {part!r} of {path!r} in a {type(value).__name__}", _NOT_VIABLE
            )
        new = change(old) if i == len(parts) - 1 else ({} if old is MISSING else old)
        if is_new:
            value += [None] * (key + 1 - len(value))
        value[key] = new
        value = new


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and (part == "0" or not part.startswith("0"))


def _with_index(parts: list[str], document: Document, condition: Document) -> list[str]:
    """Return a path with ``$`` replaced by the index of the element that a filter matched."""
    place = parts.index("$")
    array, path = parts[:place], ".".join(parts[:place])
    about = [key for key in condition if key == path or key.startswith(f"{path}.")]
    if not about:
        raise _error(
            f"the positional operator in {'.'.join(parts)!r} needs a condition on {path!r}", _FAILED
        )
    value = condition[about[0]]
    negative = value is None or (is_operators(value) and bool(_NEGATIVE & set(value)))
    through_arrays = len(array) > 1 and any(
        isinstance(leaf.value, list)
        for n in range(1, len(array))
        for leaf in leaves(document, array[:n])
    )
    if len(about) > 1 or negative or through_arrays or any(key in LOGICAL for key in condition):
        raise NotAvailable(
            f"the embedded run database updates {'.'.join(parts)!r} only with one condition on "
            f"{path!r}, which says what is in the element"
        )
    found = next((leaf.value for leaf in leaves(document, array)), MISSING)
    if not isinstance(found, list):
        raise _error(f"{path!r} is no array, for {'.'.join(parts)!r}", _FAILED)
    if about[0] == path and is_operators(value) and "$elemMatch" in value:
        if len(value) > 1:
            raise NotAvailable("the embedded run database has $elemMatch on its own for $")
        test = element_test(value["$elemMatch"])
    elif about[0] == path:
        whole = compiled({"x": value})
        test = lambda item: not isinstance(item, list) and whole({"x": item})  # noqa: E731
    else:
        inner = compiled({about[0][len(path) + 1 :]: value})
        test = lambda item: isinstance(item, dict) and inner(item)  # noqa: E731
    for index, item in enumerate(found):
        if test(item):
            return [*array, str(index), *parts[place + 1 :]]
    raise NotAvailable(f"the embedded run database does not see which element of {path!r} is meant")


def _from_filter(condition: Document) -> Document:
    """Return the document that an upsert begins with: what a filter says that fields are equal to.

    Raises
    ------
    NotAvailable
        For filters of which MongoDB makes more, or less, than one sees.
    """
    made: Document = {}
    for path, value in sorted(_equalities(condition), key=lambda pair: pair[0]):
        _change(made, parts_of(path), path, _only_once(value, path))
    return made


def _only_once(value: Any, path: str) -> Callable[[Any], Any]:
    def change(old: Any) -> Any:
        if old is not MISSING:
            raise _error(f"an upsert cannot tell what {path!r} is to be", 54)
        return value

    return change


def _equalities(condition: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in condition.items():
        if key == "$and":
            for part in value:
                yield from _equalities(part)
        elif key.startswith("$") or isinstance(value, Regex):
            raise NotAvailable(f"the embedded run database makes no document of {key}: {value!r}")
        elif not is_operators(value):
            yield key, value
        elif "$eq" in value:
            yield key, value["$eq"]
        elif not set(value) <= _NO_VALUE or (key == "_id" or key.startswith("_id.")):
            raise NotAvailable(
                f"the embedded run database makes no document of {key}: {value!r}; name its value"
            )


def _path_order(path: str) -> list[tuple]:
    """Return a key by which a path comes directly before those that begin with it."""
    return [(0, int(p), "") if _is_index(p) else (1, 0, p) for p in path.split(".")]


def _no_array(operator: str, path: str, value: Any) -> Exception:
    return _error(
        f"the field {path!r} must be an array for {operator}, but is {type(value).__name__}",
        _FAILED,
    )


def _error(text: str, code: int) -> Exception:
    from pymongo.errors import WriteError  # slow to import

    return WriteError(text, code)
