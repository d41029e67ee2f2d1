"""Entries of processed data in run documents: new ones, and what those of either form say."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amstrax
from amstrax import settings
from amstrax.rundb import documents
from amstrax.rundoc import MISSING_LIVE_DATA

if TYPE_CHECKING:
    import strax


#: Texts on missing live data that an entry has
_MOST_MISSING = 20


def identity(key: "strax.DataKey", location: Path) -> dict[str, Any]:
    """Return what tells the entry of data on this machine from all others.

    Parameters
    ----------
    key
        Which data.
    location
        Folder that its folder is in.
    """
    return {
        "type": key.data_type,
        "host": documents.this_host(),
        "location": str(location),
        "lineage_hash": key.lineage_hash,
    }


def new_entry(
    key: "strax.DataKey",
    location: Path,
    metadata: Mapping[str, Any],
    corrections_version: str | None = None,
) -> dict[str, Any]:
    """Return the entry of data that is complete.

    Parameters
    ----------
    key
        Which data.
    location
        Folder that its folder is in.
    metadata
        Of the data.
    corrections_version
        Version of the corrections that it was made with, if any.

    Raises
    ------
    OSError
        When its files cannot be looked at.
    """
    size = sum(file.stat().st_size for file in (location / str(key)).iterdir())
    missing = list(metadata.get(MISSING_LIVE_DATA) or ())
    if len(missing) > _MOST_MISSING:
        missing[_MOST_MISSING:] = [f"and {len(missing) - _MOST_MISSING} more, see the metadata"]
    return identity(key, location) | {
        "n_chunks": len(metadata.get("chunks") or ()),
        "size_mb": round(size / 1e6, 3),
        "amstrax_version": amstrax.__version__,
        "corrections_version": corrections_version,
        "user": settings.login_name(),
        "time": datetime.now(UTC),
        **({MISSING_LIVE_DATA: missing} if missing else {}),
    }


def folder_of(entry: Mapping[str, Any], key: "strax.DataKey") -> Path:
    """Return the data's own folder: the location in older entries, in newer ones a folder there."""
    location = Path(entry["location"])
    lineage_hash = entry.get("lineage_hash")
    if not isinstance(lineage_hash, str):
        return location
    name = f"{key.run_id}-{key.data_type}-{lineage_hash}"
    return location if location.name == name else location / name


def has_other_hash(entry: Mapping[str, Any], key: "strax.DataKey") -> bool:
    """Return whether an entry is of data with another lineage, as its hash says."""
    lineage_hash = entry.get("lineage_hash")
    return isinstance(lineage_hash, str) and lineage_hash != key.lineage_hash


def lineage_of(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the lineage that an entry has, as older ones do; else None."""
    meta = entry.get("meta")
    lineage = meta.get("lineage") if isinstance(meta, Mapping) else None
    return lineage if isinstance(lineage, Mapping) and lineage else None
