"""Rows of the table of runs, as strax's contexts want them, from run documents."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from amstrax.rundb import documents, fields

_RUN_COLUMNS = ("name", "number", "mode", "start", "end", "tags", "livetime", "processing_status")


def row_of(
    document: dict[str, Any],
    wanted: Iterable[str],
    is_called_by_number: bool,
    reader_ini_name_is_mode: bool,
) -> dict[str, Any]:
    """Return a row of the table of runs; whatever is odd in the document is left out.

    Parameters
    ----------
    document
        Run document, with name or number.
    wanted
        Columns, besides name, number, mode and tags.
    is_called_by_number
        The run id is the number.
    reader_ini_name_is_mode
        The mode is in the field ``reader.ini.name``.
    """
    name = documents.name_of(document)
    row = {key: value for key, value in document.items() if key not in _RUN_COLUMNS}
    reader = row.pop("reader", None) if reader_ini_name_is_mode else None
    mode = document.get("mode")
    if isinstance(reader, Mapping) and isinstance(reader.get("ini"), Mapping):
        mode = reader["ini"].get("name")
    if is_called_by_number:
        name = f"{documents.number_of(document):06d}"
    start, end = time_of(document, "start"), time_of(document, "end")
    number = documents.number_of(document)
    columns = {
        "name": name,
        # strax needs one
        "number": -1 if number is None else number,
        "mode": "" if mode is None else mode if isinstance(mode, (str, list)) else str(mode),
        "start": start,
        "end": end,
        "tags": documents.tags_of(document),
        "livetime": None if start is None or end is None else end - start,
        "processing_status": None,
    }
    if document.get("processing_status") is not None:
        columns["processing_status"] = documents.status_of(document).status
    asked_for = {"name", "number", "mode", "tags", *wanted}
    return {key: value for key, value in columns.items() if key in asked_for} | row


def no_nested(fields: Iterable[str]) -> list[str]:
    """Return fields without those that are in others, which MongoDB refuses in a projection."""
    fields = set(fields)
    return sorted(
        f for f in fields if not any(f.startswith(f"{other}.") for other in fields if other != f)
    )


def time_of(document: Mapping[str, Any], field: str) -> datetime | None:
    """Return a time in UTC without time zone, as pymongo does; None where it is missing or odd."""
    value = fields.time_of(document, field)
    return value.astimezone(UTC).replace(tzinfo=None) if value and value.tzinfo else value
