"""Which of the folders that a run document names is there, and has the data that is asked for."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import strax

from amstrax.rundb.entries import folder_of, has_other_hash, lineage_of

log = logging.getLogger(__name__)


class DataFinder(strax.StorageFrontend):
    """The part of `amstrax.rundb.RunDB` that looks at folders; its first backend reads them."""

    def _first_there(
        self,
        key: strax.DataKey,
        entries: Iterable[Mapping[str, Any]],
        hosts: Sequence[str] | None,
        fuzzy_for: tuple,
        fuzzy_for_options: tuple,
        gone: list[Path] | None = None,
    ) -> Path | None:
        """Return the first folder of those that entries name that is there and has the data."""
        for entry in entries:
            location = entry.get("location")
            if entry.get("type") != key.data_type or not isinstance(location, str) or not location:
                continue
            if hosts is not None and entry.get("host") not in hosts:
                continue
            path = folder_of(entry, key)
            is_fuzzy = bool(fuzzy_for or fuzzy_for_options)
            if not is_fuzzy and has_other_hash(entry, key):
                continue
            if not path.is_dir():
                if gone is None:
                    log.info("%s of run %s is not at %s", key.data_type, key.run_id, path)
                else:
                    gone.append(path)
                continue
            # The hash is in the folder's name
            is_sure = not is_fuzzy and path.name.endswith(f"-{key.data_type}-{key.lineage_hash}")
            if is_sure or self._has_lineage(entry, key, path, fuzzy_for, fuzzy_for_options):
                return path
        return None

    def _has_lineage(
        self,
        entry: Mapping[str, Any],
        key: strax.DataKey,
        path: Path,
        fuzzy_for: tuple,
        fuzzy_for_options: tuple,
    ) -> bool:
        """Return whether data has a lineage, as its entry or else its metadata says."""
        lineage = lineage_of(entry)
        try:
            if lineage is None:
                lineage = self.backends[0].get_metadata(str(path))["lineage"]
            # Compared by hash, since lists and tuples are the same in JSON
            asked, there = (
                strax.deterministic_hash(self._filter_lineage(x, fuzzy_for, fuzzy_for_options))
                for x in (key.lineage, lineage)
            )
        except (
            strax.DataCorrupted,
            AttributeError,
            KeyError,
            IndexError,
            TypeError,
            ValueError,
        ) as error:
            log.info("%s is skipped, its lineage cannot be read: %s", path, error)
            return False
        return asked == there

    def _is_broken(self, path: Path, allow_incomplete: bool) -> bool:
        try:
            metadata = self.backends[0].get_metadata(str(path))
        except (strax.DataCorrupted, strax.DataNotAvailable):
            return True
        complete = "writing_ended" in metadata or allow_incomplete
        return "exception" in metadata or not complete

    def _backend_key(self, path: Path) -> tuple[str, str]:
        return type(self.backends[0]).__name__, str(path)
