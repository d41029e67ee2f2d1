"""Add ranges of runs to correction files."""

import json
import os
from pathlib import Path
from typing import Any

from amstrax import strict_json
from amstrax.corrections import lookup
from amstrax.exceptions import InvalidCorrection


def read_entries(path: Path) -> list[lookup.Entry]:
    """Load the sorted entries of a correction file; empty if the file does not exist.

    Raises
    ------
    InvalidCorrection
        When the file is not a correction file, or its ranges overlap.
    """
    lookup.folder_of(path.name)
    if not path.exists():
        return []
    content = lookup.parse(strict_json.read_text(path, InvalidCorrection), str(path))
    entries = sorted(lookup.entries(content, path.name, str(path)), key=lambda e: e.first)
    for before, after in zip(entries, entries[1:], strict=False):
        if after.first <= before.last:
            raise InvalidCorrection(
                f"{path}: the ranges {before.text!r} and {after.text!r} overlap: change one of them"
            )
    return entries


def with_entry(entries: list[lookup.Entry], new: lookup.Entry, path: Path) -> list[lookup.Entry]:
    """Return sorted entries with a new one added.

    Raises
    ------
    InvalidCorrection
        When the new range overlaps with an existing one: values of runs must not change.
    """
    for entry in entries:
        if entry.first <= new.last and new.first <= entry.last:
            raise InvalidCorrection(
                f"{path} has a value for the range {entry.text!r} already, with which "
                f"{new.text!r} overlaps. Take another range, or, to change values, a new version "
                "of the file"
            )
    return sorted([*entries, new], key=lambda e: e.first)


def write_entries(entries: list[lookup.Entry], path: Path) -> None:
    """Write a correction file, one line per range; replace an existing file atomically.

    Raises
    ------
    InvalidCorrection
        When a value contains NaN, an infinity or an integer of more than 8 bytes.
    OSError
        When the file cannot be written.
    """
    for entry in entries:
        value = json.dumps({entry.text: entry.value})
        lookup.parse(value, f"{path}, the value of {entry.text!r}")
    lines = [f"    {json.dumps(entry.text)}: {json.dumps(entry.value)}" for entry in entries]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def value_before(entries: list[lookup.Entry], new: lookup.Entry) -> Any:
    """Return the value of the last range before a new one; None without such a range."""
    before = [entry for entry in entries if entry.last < new.first]
    return max(before, key=lambda e: e.last).value if before else None
