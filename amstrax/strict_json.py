"""Strict reading of users' JSON, with errors that name file, line and column; atomic writing."""

import contextlib
import json
import math
import numbers
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amstrax.exceptions import AmstraxError

#: Deepest nesting of lists and objects, as in MongoDB
MAX_DEPTH = 100
#: Largest file of JSON that is read [bytes]
MAX_BYTES = 2**26

_TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} deep: make it flatter"
#: Half of a pair of characters that JSON writes in two
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STRING = r'"(?:[^"\\]|\\.)*"'


class _Fault(Exception):
    """Message, and the token (a number or a name) with the fault."""

    def __init__(self, message: str, token: str = ""):
        super().__init__(message)
        self.token = token


def read_text(path: str | Path, error: type[AmstraxError], most_bytes: int = MAX_BYTES) -> str:
    """Return the text of a file; raise `error` unless it is UTF-8 of at most `most_bytes` bytes."""
    place = place_of(path)
    try:
        with open(path, "rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else fault
        raise error(f"{place} cannot be read ({why}): check the name of the file") from None
    if len(content) > most_bytes:
        raise error(f"{place} has more than {most_bytes / 1e6:.0f} MB: give a smaller file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as fault:
        at = fault.start + 1
        raise error(f"{place} cannot be read: byte {at} is not UTF-8, so not JSON") from None


def parse(
    text: str,
    place: str,
    error: type[AmstraxError],
    hook: Callable[[dict[str, Any]], Any] | None = None,
    first_line: int = 1,
) -> Any:
    """Return the value in a JSON text.

    Names in an object are unique, numbers are finite, integers have at most 8 bytes, and nesting is
    at most `MAX_DEPTH` deep; anything else raises `error`, whose message names `place`, a path or
    address, with `first_line` as the number of the text's first line there. `hook` converts each
    object, as `bson.json_util.object_hook`.
    """

    def made(pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise _Fault(f"{short(twice)} occurs twice: remove one", json.dumps(twice))
        if hook is None:
            return found
        try:
            return hook(found)
        except RecursionError:
            raise
        except Exception as fault:
            # The library raises many kinds
            raise _Fault(f"{short(found)} is no extended JSON: {short(fault, one_line)}") from None

    try:
        value = json.loads(
            text,
            object_pairs_hook=made,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_float,
        )
        if text.count("[") + text.count("{") > MAX_DEPTH or _SURROGATE.search(text):
            _check(value)
    except json.JSONDecodeError as fault:
        line = first_line + fault.lineno - 1
        raise error(
            f"{place}, line {line}, column {fault.colno}: {fault.msg}: this is not JSON"
        ) from None
    except RecursionError:
        raise error(f"{place}: {_TOO_DEEP}") from None
    except _Fault as fault:
        where = _position(text, fault.token, first_line)
        raise error(f"{place}{where}: {fault}") from None
    return value


def load_object(path: str | Path, error: type[AmstraxError]) -> dict[str, Any]:
    """Load the JSON object in a file; anything else raises `error`, as in `parse`."""
    value = parse(read_text(path, error), place_of(path), error)
    if not isinstance(value, dict):
        raise error(f"{place_of(path)} holds {short(value)}, which is no JSON object, as {{...}}")
    return value


def write_text(path: Path, text: str | Iterable[str], mode: int = 0o666) -> None:
    """Write text or lines to a file in an existing folder, with permissions `mode` less the umask.

    The file is replaced as by `replacing` and synced to disk: a kill or a power cut leaves either
    the old or the new one.
    """
    with replacing(path) as new:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
    # Not all file systems can sync a folder
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which it replaces at the end, atomically.

    After an error the new file is removed. An OSError names `path`, not the new file.
    """
    new = path.with_name(f".{path.stem[:150]}.{uuid.uuid4().hex}{path.suffix[:50]}")
    try:
        yield new
        os.replace(new, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(new)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def place_of(path: str | Path) -> str:
    """Return a path for an error message; of a long one its end."""
    text = str(path) if str(path).isprintable() else repr(str(path))
    return text if len(text) <= 120 else f"...{text[-116:]}"


def short(value: object, text_of: Callable[[Any], str] = repr) -> str:
    """Return a value for an error message, shortened to 60 characters."""
    text = text_of(value)
    return text if len(text) <= 60 else f"{text[:56]}..."


def one_line(value: object) -> str:
    """Return a value as text in one line."""
    return " ".join(str(value).split())


def _integer(digits: str) -> int:
    # Python refuses to convert very long ones
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise _Fault(f"{short(digits, str)} is too large: integers have at most 8 bytes", digits)
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Fault(f"{short(text, str)} is no finite number: give one", text)
    return value


def _check(value: Any) -> None:
    """Raise a fault for nesting that is too deep, and for text that UTF-8 cannot encode."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += (*each, *each.values())
            elif isinstance(each, list):
                below += each
            elif (
                isinstance(each, str) and not each.isascii() and re.search("[\ud800-\udfff]", each)
            ):
                raise _Fault(f"{short(each)} has half of a surrogate pair: write it as UTF-8")
        level = below
        if not level:
            return
    raise _Fault(_TOO_DEEP)


def _position(text: str, token: str, first_line: int) -> str:
    """Return line and column of a token outside of strings, or of a name, for messages."""
    for match in re.finditer(f"{_STRING}|{re.escape(token)}", text, re.DOTALL) if token else ():
        if match[0] == token:
            start = match.start()
            line = first_line + text.count("\n", 0, start)
            return f", line {line}, column {start - text.rfind(chr(10), 0, start)}"
    return f", line {first_line}"


# Kinds of values

NOTHING, OTHER = "nothing", "other"
#: Types of values, and the name of each kind
_KINDS = (
    (bool, "truth value"),
    (numbers.Real, "number"),
    (str, "text"),
    ((list, tuple), "list"),
    (Mapping, "table"),
    (type(None), NOTHING),
)


def kind(value: Any) -> str:
    """Return the kind of a value, for messages; integers and floats are both numbers."""
    return kind_of_type(type(value))


def kind_of_type(type_: type) -> str:
    """Return the kind of the values of a type, for messages."""
    return next((name for types, name in _KINDS if issubclass(type_, types)), OTHER)


def full_kind(value: Any) -> str:
    """Return the kind of a value and of its items, for messages."""
    if isinstance(value, (list, tuple)):
        inner = sorted({full_kind(item) for item in value})
        return f"a list ({' and '.join(inner)})" if inner else "an empty list"
    if isinstance(value, dict):
        return f"a table ({', '.join(sorted(value))})"
    return f"a {kind(value)}"


def with_tuples(value: Any) -> Any:
    """Return a value of JSON with lists turned into tuples, at every depth, as plugins expect."""
    if isinstance(value, Mapping):
        return {key: with_tuples(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Fast path: maps have lists of many thousand numbers
        is_flat = set(map(type, value)) <= {int, float}
        return tuple(value) if is_flat else tuple(map(with_tuples, value))
    return value
