"""Stored data of the lab's other release that equals what a context would make.

The lab's packages of 2026 ("2.2") and June 2025 ("2.1") have different versions of the reader,
which is part of every lineage. So all hashes differ, although rows and fields of most data types
are equal. `EQUAL` lists these types.
"""

import copy
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import strax
from immutabledict import immutabledict

from amstrax.exceptions import InvalidRegisters, InvalidRunDocument, RunDatabaseError
from amstrax.run_values import RunValues, is_run_value
from amstrax.rundoc import (
    CHANNEL_MAP_FIELDS,
    XAMS_CHANNEL_MAP,
    channel_pairs,
    channels_polarity,
    register_entries,
    value_at,
)
from amstrax.settings import RELEASES

log = logging.getLogger(__name__)

#: Metadata of data made from data of the other release: data type -> its hash and lineage
EQUIVALENT_PARENTS = "equivalent_parents"


class Equal(NamedTuple):
    """Plugin that makes equal data in both releases; its versions, in the order of `RELEASES`."""

    plugin: str
    versions: tuple[str, str]


#: Data types with equal rows and fields, made only from data types with equal rows and fields.
#: tests/strax_ext/test_equivalents.py computes this table from the specifications of both releases,
#: their reference arrays and the versions of the plugins: add only entries that it computes
EQUAL = {
    "raw_records": Equal("DAQReader", ("0.0.0", "0.1.0")),
    "raw_records_ext": Equal("DAQReader", ("0.0.0", "0.1.0")),
    "records": Equal("PulseProcessing", ("0.3.0", "0.3.0")),
    "pulse_counts": Equal("PulseProcessing", ("0.3.0", "0.3.0")),
    "peaks": Equal("Peaks", ("0.1.50", "0.1.50")),
    "peak_basics": Equal("PeakBasics", ("2.1", "2.1")),
    "peak_positions": Equal("PeakPositions", ("1.2.26", "1.2.26")),
    "events": Equal("Events", ("1.0.2", "1.0.2")),
    "event_basics": Equal("EventBasics", ("1.6", "1.6")),
    "event_coincidences": Equal("EventCoincidences", ("1.1-amstrax3", "1.1-amstrax3")),
    "event_waveform": Equal("EventWaveform", ("0.0.1", "0.0.1")),
    "event_area_per_channel": Equal("EventAreaPerChannel", ("0.1.1", "0.1.1")),
    "event_n_channel": Equal("EventAreaPerChannel", ("0.1.1", "0.1.1")),
    "records_ext": Equal("PulseProcessingEXT", ("0.0.1", "0.0.1")),
    "peaks_ext": Equal("PeaksEXT", ("0.0.3", "0.0.3")),
    "peak_basics_ext": Equal("PeakBasicsEXT", ("2.1", "2.1")),
    "peak_coincidences": Equal("PeakCoincidences", ("1.1-amstrax3", "1.1-amstrax3")),
    "hits": Equal("Hits", ("0.1.0", "0.1.0")),
    "lone_hits": Equal("LoneHits", ("0.1.0", "0.1.0")),
}

#: Differences of unequal data types; other types are unequal because they are made from these
DIFFERENCES = {
    "raw_records_sipm": "2.1 inverts positive pulses, 2.2 does not",
    "records_sipm": "baseline and area differ",
    "records_led": "2.2 adds SiPM channels, and joins fragments differently",
    "event_positions": "2.2 adds u, v and phi, and takes maps",
    "corrected_areas": "2.2 adds the areas of top and bottom",
}

#: Largest number of entries of a folder that `stored_releases` reads
MOST_ENTRIES = 5000

_READER = "raw_records"
_GROUPS = ("bottom", "top", "external")
#: Fields of run documents on which the output of the two readers depends. Groups are listed one by
#: one because run metadata in folders is flat
_FIELDS = (
    "daq_config.registers",
    *(f"{name}.{group}" for name in CHANNEL_MAP_FIELDS for group in XAMS_CHANNEL_MAP),
)

# Data types and releases whose use this process has reported
_reported: set[tuple[str, str]] = set()


def release_of(lineage: Mapping[str, Any]) -> str | None:
    """Return the release whose reader is in a lineage; None for any other reader."""
    plugin, version, *_ = lineage.get(_READER) or (None, None)
    reader = EQUAL[_READER]
    if plugin != reader.plugin or version not in reader.versions:
        return None
    return RELEASES[reader.versions.index(version)]


def other_release(lineage: Mapping[str, Any]) -> str | None:
    """Return the release whose reader is not in a lineage; None if it has neither reader."""
    release = release_of(lineage)
    return None if release is None else RELEASES[1 - RELEASES.index(release)]


def equivalent(data_type: str, lineage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the lineage of equal data in the other release: same options, other versions.

    Return None if a plugin of the lineage is not in `EQUAL` with its version in one release.
    """
    release = release_of(lineage)
    if release is None or data_type not in EQUAL:
        return None
    own = RELEASES.index(release)
    result = {}
    for name, (plugin, version, options) in lineage.items():
        equal = EQUAL.get(name)
        if equal is None or (plugin, version) != (equal.plugin, equal.versions[own]):
            return None
        result[name] = (plugin, equal.versions[1 - own], options)
    return result


class StoredReleases(NamedTuple):
    """Raw data of XAMS in a folder, by the release that has stored it."""

    found: dict[str, tuple[int, str]]  #: release -> number of stored raw data types, newest run
    n_entries: int  #: number of entries of the folder that were read
    is_all: bool  #: whether all entries of the folder were read


def stored_releases(folder: Path, most: int | None = None) -> StoredReleases:
    """Return the releases with raw data in a folder, by the hashes in the names of its entries.

    At most `most` entries are read, by default `MOST_ENTRIES`.
    """
    plugin, versions = EQUAL[_READER]
    hashes = {
        strax.deterministic_hash({_READER: (plugin, version, {})}): release
        for release, version in zip(RELEASES, versions, strict=True)
    }
    found: dict[str, tuple[int, str]] = {}
    n_entries = 0
    with os.scandir(folder) as entries:
        for entry in islice(entries, MOST_ENTRIES if most is None else most):
            n_entries += 1
            run_id, _, rest = entry.name.partition("-")
            data_type, _, lineage_hash = rest.partition("-")
            release = hashes.get(lineage_hash)
            if release is not None and data_type.startswith(_READER):
                number, newest = found.get(release, (0, ""))
                found[release] = (number + 1, max(newest, run_id))
        is_all = next(entries, None) is None
    return StoredReleases(found, n_entries, is_all)


class EquivalentData(strax.StorageFrontend):
    """Read-only access to data of the other release in the folders and run database of a context.

    A context searches it last, so data of its own release takes precedence. Unlike `find`,
    `find_several` does not read run documents: it checks only whether data is stored.

    Parameters
    ----------
    frontends
        Storage of the context.
    registry
        Plugin classes of the context, by data type. Data of classes from outside amstrax has no
        equivalent.
    channel_map
        Channel map of the context, or the string that names it in run documents.
    run_values
        Values of run documents, for such a string.
    documents
        Run documents given to the context, by run; others are fetched from `frontends`.
    keys
        Cache of keys of equal data, valid as long as `registry` stays the same.
    """

    provide_superruns = True

    def __init__(
        self,
        frontends: Sequence[strax.StorageFrontend],
        registry: Mapping[str, type[strax.Plugin]],
        channel_map: Any,
        run_values: RunValues,
        documents: Mapping[str, Mapping[str, Any]] = immutabledict(),
        keys: dict[tuple[str, str], strax.DataKey | None] | None = None,
    ):
        super().__init__(readonly=True)
        self._frontends = sorted(frontends, key=lambda frontend: frontend.storage_type)
        self._registry = registry
        self._channel_map = channel_map
        self._run_values = run_values
        self._documents = dict(documents)
        self._keys = {} if keys is None else keys
        #: Run and data type -> key under which it was found
        self.found: dict[tuple[str, str], strax.DataKey] = {}

    @property
    def backends(self) -> list:
        """Backends of all storage."""
        return [backend for frontend in self._frontends for backend in frontend.backends]

    def key_for(self, key: strax.DataKey) -> strax.DataKey | None:
        """Return the key of equal data of the other release; None without equal data."""
        at = key.data_type, key.lineage_hash
        if at not in self._keys:
            lineage = equivalent(key.data_type, key.lineage)
            is_own = lineage is not None and all(self._is_own(name) for name in lineage)
            self._keys[at] = strax.DataKey("0", key.data_type, lineage) if is_own else None
        known = self._keys[at]
        if known is None:
            return None
        result = copy.copy(known)
        result.run_id, result.subruns, result.combining = key.run_id, key.subruns, key.combining
        result._lineage = known.lineage.copy()
        return result

    def find(self, key: strax.DataKey, write: bool = False, **options: Any) -> tuple[str, str]:
        """Find equal data and return its backend and place; parameters are those of strax."""
        if write:
            raise strax.DataNotAvailable(f"{self} is for reading")
        return self._ask("find", key, **options)

    def get_metadata(self, key: strax.DataKey, *args: Any, **options: Any) -> dict:
        """Return metadata of equal data, with its own lineage; parameters are those of strax."""
        return self._ask("get_metadata", key, *args, **options)

    def loader(self, key: strax.DataKey, *args: Any, **options: Any) -> Any:
        """Return a loader of equal data; parameters are those of strax."""
        loader = self._ask("loader", key, *args, **options)
        other = self.found[key.run_id, key.data_type]
        release = release_of(other.lineage)
        if (key.data_type, str(release)) not in _reported:
            _reported.add((key.data_type, str(release)))
            log.warning(
                "%s is loaded from release %s, whose data equals that of release %s: %s; "
                "further runs are not reported",
                key.data_type,
                release,
                release_of(key.lineage),
                other,
            )
        return loader

    def find_several(self, keys: Sequence[strax.DataKey], **options: Any) -> list:
        """Return the place of equal data for each key, False for keys without such data."""
        result: list[Any] = [False] * len(keys)
        others = {i: other for i, key in enumerate(keys) if (other := self.key_for(key))}
        for frontend in self._frontends:
            left = [i for i in others if not result[i]]
            found = frontend.find_several([others[i] for i in left], **options) if left else ()
            for i, place in zip(left, found, strict=True):
                result[i] = place
        return result

    def why_not(self, key: strax.DataKey) -> str:
        """Return why stored data of the other release is not used; empty if none is stored."""
        release, its = release_of(key.lineage), other_release(key.lineage)
        if its is None:
            return ""
        other = self.key_for(key)
        if other is not None:
            reason = self._objection(other)
            if not reason or not self._is_there(other):
                return ""
        else:
            # Options and versions may differ, except the version of the reader
            lineage = dict(key.lineage)
            plugin, _, options = lineage[_READER]
            version = EQUAL[_READER].versions[RELEASES.index(its)]
            lineage[_READER] = (plugin, version, options)
            other = strax.DataKey(key.run_id, key.data_type, lineage, key.subruns, key.combining)
            differing = [d for d in (key.data_type, *lineage) if d in DIFFERENCES]
            fuzzy_for = tuple(d for d in lineage if d != _READER)
            if not differing or not self._is_there(other, fuzzy_for):
                return ""
            reason = "; ".join(f"{d}: {DIFFERENCES[d]}" for d in dict.fromkeys(differing))
        return (
            f"{key.data_type} of run {key.run_id} is stored by release {its} only, which is not "
            f"the same as in {release} ({reason}): load it with {self.other_context(key)}"
        )

    def other_context(self, key: strax.DataKey) -> str:
        """Return the Python code for the context of the other release that makes a data type."""
        name = "xams_led" if "records_led" in self._registry else "xams"
        return f'{name}(release="{other_release(key.lineage)}")'

    def _ask(self, method: str, key: strax.DataKey, *args: Any, **options: Any) -> Any:
        other = self.key_for(key)
        for frontend in self._frontends if other is not None else ():
            with suppress(strax.DataNotAvailable, strax.DataCorrupted):
                result = getattr(frontend, method)(other, *args, **options)
                if self._objection(other):
                    break
                self.found[key.run_id, key.data_type] = other
                return result
        raise strax.DataNotAvailable(f"no equal data is stored for {key}")

    def _is_there(self, key: strax.DataKey, fuzzy_for: tuple[str, ...] = ()) -> bool:
        for frontend in self._frontends:
            with suppress(strax.DataNotAvailable, strax.DataCorrupted, OSError, ValueError):
                frontend.find(key, fuzzy_for=fuzzy_for)
                return True
        return False

    def _is_own(self, data_type: str) -> bool:
        plugin = self._registry.get(data_type)
        return plugin is not None and plugin.__module__.partition(".")[0] == "amstrax"

    def _objection(self, key: strax.DataKey) -> str:
        """Return why the readers of both releases differ for a run; empty if they do not.

        The reader of 2.1 inverts channels with positive pulses, and the lab's version of it uses
        the default channel map for every run. Runs without document are assumed to have the default
        channels.
        """
        is_ext = any(name.endswith("_ext") for name in (key.data_type, *key.lineage))
        groups = _GROUPS if is_ext else _GROUPS[:2]
        document = self._document(key.run_id)
        maps = {}
        channel_map = self._channel_map
        if is_run_value(channel_map):
            try:
                channel_map = self._run_values.get(channel_map, key.run_id)
            except (InvalidRunDocument, RunDatabaseError) as error:
                return f"its channel_map is not known: {error}"
        if isinstance(channel_map, Mapping):
            # In a context for live data this is the map of the document
            maps["channel_map of the context"] = channel_map
        for name in CHANNEL_MAP_FIELDS:
            its = {group: _field(document, f"{name}.{group}") for group in XAMS_CHANNEL_MAP}
            if channel_pairs(its):
                maps[f"{name} of its document"] = its
                break
        for place, channel_map in maps.items():
            pairs = channel_pairs(channel_map)
            for group in groups:
                pair, usual = pairs.get(group), XAMS_CHANNEL_MAP[group]
                if pair != usual:
                    return f"{place} has {group} {pair and list(pair)}, 2.1 has {list(usual)}"
        registers = _field(document, "daq_config.registers")
        try:
            polarity = channels_polarity(register_entries(() if registers is None else registers))
        except InvalidRegisters as error:
            return f"the channels that 2.1 inverts are unknown: {error}"
        for group in groups:
            first, last = XAMS_CHANNEL_MAP[group]
            positive = [channel for channel in range(first, last + 1) if polarity.get(channel) == 1]
            if positive:
                return f"2.1 inverts channel {positive[0]} ({group}), whose pulses are positive"
        return ""

    def _document(self, run_id: str) -> Mapping[str, Any]:
        missing = (strax.DataNotAvailable, strax.RunMetadataNotAvailable, NotImplementedError)
        for frontend in self._frontends if run_id not in self._documents else ():
            if frontend.provide_run_metadata:
                with suppress(*missing):
                    found = frontend.run_metadata(run_id, projection=list(_FIELDS))
                    self._documents[run_id] = found
                    break
        return self._documents.get(run_id, {})


def parents_metadata(
    loaded: Mapping[str, Mapping[str, Any]], used: Iterable[tuple[str, strax.DataKey]]
) -> dict[str, Any]:
    """Return the metadata field that lists parents of new data from the other release.

    `loaded` has the metadata of loaded data types, `used` the keys of those from the other release.
    """
    parents: dict[str, Any] = {}
    for metadata in loaded.values():
        parents.update(metadata.get(EQUIVALENT_PARENTS) or {})
    for data_type, key in used:
        parents[data_type] = {"lineage_hash": key.lineage_hash, "lineage": key.lineage}
    return parents


def _field(document: Mapping[str, Any], name: str) -> Any:
    """Return a field of a document, nested or with a dotted name; None if it is missing."""
    return document[name] if name in document else value_at(document, name)
