"""Run documents: times, folders, channels, and the options of the reader of live data."""

import logging
import numbers
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from immutabledict import immutabledict

from amstrax import strict_json
from amstrax.exceptions import InvalidOption, InvalidRegisters, InvalidRunDocument
from amstrax.strict_json import short

log = logging.getLogger(__name__)

RunDocument = Mapping[str, Any]

#: Key of the missing live data in the metadata of data, and in its entry in a run document
MISSING_LIVE_DATA = "missing_live_data"
#: Field of the metadata of data with its dead time, in raw data and what is made from it
DEAD_TIME = "dead_time"

#: Defaults of redax
CHUNK_LENGTH_S, CHUNK_OVERLAP_S = 5.0, 0.5
FRAGMENT_PAYLOAD_BYTES = 220
_BYTES_PER_SAMPLE = 2
#: Longest chunk, a day, and largest fragment that are accepted
_LONGEST_S, _MOST_PAYLOAD_BYTES = 86_400, 2**20
#: Earliest and latest start of a run whose times, in ns, fit into 8 bytes
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

#: Names of runs, which are also those of their folders, jobs, logs and lock files
_RUN_NAME = re.compile(r"[0-9]{1,18}")

#: More channels than any detector has
_MOST_CHANNELS = 2**16

#: Address of a digitizer's register 0x1n80, "DPP algorithm control" of channel n
_POLARITY_REGISTER = re.compile(r"(?:0x)?1([0-9a-f])80", re.IGNORECASE)
_POLARITIES = {"110000": -1, "1110000": -1, "100000": 1, "1100000": 1}

#: First and last channel of each subdetector of XAMS, where a run document has no channel map
XAMS_CHANNEL_MAP = immutabledict(
    bottom=(0, 0), top=(1, 4), external=(5, 5), sipm=(6, 6), aqmon=(40, 40)
)
#: Field that holds options of plugins for the run: name -> value. strax calls them run defaults
OPTIONS_FIELD = "strax_defaults"
#: Fields that may hold the channel map of a run; the first one with a map counts
CHANNEL_MAP_FIELDS = ("xams_bookkeeping.channel_map", "daq_config.channel_map")


def from_json(text: str) -> dict[str, Any]:
    """Return the run document in `text`: JSON, or the name of a file with JSON.

    Raises InvalidRunDocument for anything else.
    """
    source = "the run document given"
    if not text.lstrip().startswith(("{", "[")):
        source = f"run document {strict_json.place_of(text)}"
        text = strict_json.read_text(text, InvalidRunDocument)
    document = strict_json.parse(text, source, InvalidRunDocument)
    if not isinstance(document, dict):
        raise InvalidRunDocument(f"{source} is a {type(document).__name__}, not one JSON object")
    return document


def start_time(document: RunDocument) -> datetime:
    """Return the start of the run in UTC.

    It may be a datetime (without time zone: UTC), text in ISO 8601, or a date of MongoDB in JSON:
    ``{"$date": ...}``. Raises InvalidRunDocument for anything else, and for a missing start.
    """
    start = _time(document, "start")
    if start is None:
        raise InvalidRunDocument(
            f"run document of {name(document)} has no start: add the time at which the run began, "
            'as {"start": {"$date": "2024-01-02T03:04:05Z"}}'
        )
    return start


def end_time(document: RunDocument) -> datetime | None:
    """Return the end of the run in UTC, or None while it is being taken."""
    return _time(document, "end")


def to_json(time: datetime) -> dict[str, str]:
    """Return a time in the JSON of MongoDB, rounded down to its milliseconds."""
    text = time.astimezone(UTC).isoformat(timespec="milliseconds")
    return {"$date": text.replace("+00:00", "Z")}


def name(document: RunDocument) -> str:
    """Return the name of the run for messages."""
    called = document.get("name") or document.get("number") or "(without number)"
    text = short(called, str)
    return f"run {text if text.isprintable() else short(called)}"


def check_run_name(name: object) -> str:
    """Return the name of a run, or raise InvalidRunDocument unless it has digits only."""
    if not isinstance(name, str) or not _RUN_NAME.fullmatch(name):
        raise InvalidRunDocument(
            f"a run is called {short(name)}, which cannot be the name of its folder: give it "
            "digits, as 006724"
        )
    return name


def check_location(location: object) -> Path:
    """Return the folder in the data of a run document, or raise InvalidRunDocument.

    The path must be absolute and printable.
    """
    if not isinstance(location, str) or not location.startswith("/") or not location.isprintable():
        raise InvalidRunDocument(
            f"its document has live data in {short(location)}, which is no folder: give the whole "
            "path"
        )
    return Path(location)


def live_folders(document: RunDocument) -> list[str]:
    """Return the folders of the run's live data, on any host.

    Raises InvalidRunDocument when ``data`` is not a list.
    """
    folders = [
        entry.get("location")
        for entry in _list(document, document, "data")
        if isinstance(entry, Mapping) and entry.get("type") == "live"
    ]
    daq_config = document.get("daq_config")
    if isinstance(daq_config, Mapping):
        folders.append(daq_config.get("strax_output_path"))
    return [folder for folder in folders if isinstance(folder, str) and folder]


def reader_config(document: RunDocument) -> dict[str, Any]:
    """Return the options of the reader of live data that a run document sets.

    Raises InvalidRunDocument when daq_config is missing or has invalid values.
    """
    daq_config = document.get("daq_config")
    if not isinstance(daq_config, Mapping) or not daq_config:
        raise InvalidRunDocument(
            f"run document of {name(document)} has no daq_config: without the DAQ's settings its "
            "live data cannot be read. Take the document from the run database"
        )
    threads = daq_config.get("processing_threads")
    if (
        not isinstance(threads, Mapping)
        or not threads
        # True is an integer, and so is an Int64 of MongoDB
        or not all(isinstance(n, int) and n is not True and n > 0 for n in threads.values())
    ):
        must = 'name the readout processes with numbers of threads, as {"xams-daq_reader_0": 1}'
        raise _invalid(document, "daq_config.processing_threads", threads, must)
    length = _positive(document, "strax_chunk_length", CHUNK_LENGTH_S, _LONGEST_S)
    overlap = _positive(document, "strax_chunk_overlap", CHUNK_OVERLAP_S, _LONGEST_S)
    key = "strax_fragment_payload_bytes"
    limits = _MOST_PAYLOAD_BYTES, _BYTES_PER_SAMPLE
    payload = _positive(document, key, FRAGMENT_PAYLOAD_BYTES, *limits)
    if payload % _BYTES_PER_SAMPLE:
        must = f"be a whole number of samples of {_BYTES_PER_SAMPLE} bytes"
        raise _invalid(document, f"daq_config.{key}", payload, must)
    compressor = daq_config.get("compressor") or "lz4"
    if type(compressor) is not str:
        raise _invalid(document, "daq_config.compressor", compressor, 'be a text, as "lz4"')
    start = start_time(document)
    if not _FIRST <= start < _LAST:
        must = f"be between {_FIRST.year} and {_LAST.year}, since times are counted in ns from 1970"
        raise _invalid(document, "start", start.isoformat(" "), must)
    registers = _list(document, daq_config, "registers", "daq_config.")
    return dict(
        run_start_time=start.timestamp(),
        readout_threads=dict(threads),
        daq_chunk_duration=round(length * 1e9),
        daq_overlap_chunk_duration=round(overlap * 1e9),
        daq_compressor=compressor,
        record_length=int(payload) // _BYTES_PER_SAMPLE,
        channels_polarity=channels_polarity(registers),
    )


def channels_polarity(registers: Any) -> dict[int, int]:
    """Return the polarity of channels, +1 or -1, from digitizer registers.

    `registers` are entries {"reg": address, "val": value, ...} with hexadecimal text; others are
    ignored.
    """
    result = {}
    for entry in registers:
        if not isinstance(entry, Mapping):
            continue
        address = _POLARITY_REGISTER.fullmatch(str(entry.get("reg")).strip())
        polarity = _POLARITIES.get(str(entry.get("val")).strip().lstrip("0"))
        if address and polarity:
            result[int(address[1], 16)] = polarity
    return result


def extract_channel_polarity(registers: Any) -> dict[int, int]:
    """Return the polarity of channels: 1 where pulses go up, -1 where they go down.

    Other values of polarity registers are logged and left out.

    Parameters
    ----------
    registers
        Digitizer registers, ``daq_config.registers`` of a run document: a list of entries, a
        dictionary with entries as values, or either as JSON. Anything else, and an entry that is
        not a dictionary, raises InvalidRegisters (a TypeError and a ValueError).
    """
    registers = register_entries(registers)
    for entry in registers:
        if not isinstance(entry, Mapping):
            raise InvalidRegisters(
                f"an entry of registers is {short(entry)}: it must be a dictionary, as "
                '{"reg": "1080", "val": "110000"}'
            )
        known = channels_polarity([entry])
        if not known and _POLARITY_REGISTER.fullmatch(str(entry.get("reg")).strip()):
            log.warning(
                "register %s has the value %s, which is no known polarity: it is ignored",
                short(entry.get("reg"), str),
                short(entry.get("val")),
            )
    return channels_polarity(registers)


def register_entries(registers: Any) -> Sequence[Any]:
    """Return the entries of digitizer registers, given as in `extract_channel_polarity`."""
    if isinstance(registers, str):
        registers = strict_json.parse(registers, "registers", InvalidRegisters)
    if isinstance(registers, Mapping):
        registers = list(registers.values())
    if not isinstance(registers, Sequence) or isinstance(registers, (str, bytes)):
        raise InvalidRegisters(
            f"registers are {short(registers)}: give a list of entries, as "
            '[{"reg": "1080", "val": "110000"}]'
        )
    return registers


def value_at(document: object, path: str) -> Any:
    """Return the value at a dotted path of a run document; None if it is missing."""
    for key in path.split("."):
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def pair(value: object) -> tuple[int, int] | None:
    """Return a value as first and last channel; None unless it is a pair of whole numbers."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != 2:
        return None
    whole = [
        isinstance(item, numbers.Real) and not isinstance(item, bool) and item == item // 1
        for item in value
    ]
    return (int(value[0]), int(value[1])) if all(whole) else None


def with_pairs(table: Mapping[str, Any]) -> immutabledict[str, Any]:
    """Return a table of a run document with pairs of whole numbers as tuples."""
    return immutabledict({key: pair(value) or value for key, value in table.items()})


def channel_map(document: RunDocument) -> immutabledict[str, tuple[int, int]] | None:
    """Return the channel map of a run: name of a subdetector -> first and last channel.

    It is the first of `CHANNEL_MAP_FIELDS` with at least one pair; None without any. Entries that
    are not pairs are dropped with a warning.
    """
    for field in CHANNEL_MAP_FIELDS:
        if pairs := usable_pairs(value_at(document, field), field, name(document)):
            return pairs
    return None


def options(document: RunDocument) -> dict[str, Any]:
    """Return the options of plugins in a run document, with tuples for lists.

    Raises InvalidRunDocument for anything but a table of them.
    """
    found = document.get(OPTIONS_FIELD)
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(option, str) for option in found):
        raise _invalid(document, OPTIONS_FIELD, found, 'be a table, as {"elife": 30000}')
    return strict_json.with_tuples(found)


def usable_pairs(value: object, field: str, run: str) -> immutabledict[str, tuple[int, int]]:
    """Return the pairs of channels in a field of a run document; warn if it has anything else."""
    pairs = channel_pairs(value)
    if value is not None and (not isinstance(value, Mapping) or len(pairs) < len(value)):
        log.warning(
            "%s of %s is %s: entries other than pairs, as [1, 4], are ignored",
            field,
            run,
            short(value),
        )
    return pairs


def channel_pairs(value: object) -> immutabledict[str, tuple[int, int]]:
    """Return the pairs of channels in a channel map; other entries are left out."""
    table = value if isinstance(value, Mapping) else {}
    pairs = {str(key): pair(item) for key, item in table.items()}
    return immutabledict({key: item for key, item in pairs.items() if item is not None})


def channels_in_map_group(channel_map: object, group: str) -> set[int]:
    """Return the channels of a group of a channel map; empty if it is missing or invalid."""
    first, last = channel_pairs(channel_map).get(group, (0, -1))
    # A wrong number must not fill the memory
    return set(range(first, last + 1)) if last - first < _MOST_CHANNELS else set()


def channel_range(channel_map: object, group: str) -> tuple[int, int]:
    """Return the first and last channel of a group of a channel map, or raise InvalidOption."""
    first, last = channel_pairs(channel_map).get(group, (0, -1))
    if not 0 <= first <= last:
        value = channel_map.get(group) if isinstance(channel_map, Mapping) else channel_map
        raise InvalidOption(
            f"channel_map has {short(value)} for {group}: give first and last channel, as [1, 4], "
            "in xams_bookkeeping of the run document or in the context's config"
        )
    return first, last


def _invalid(document: RunDocument, field: str, value: object, must: str) -> InvalidRunDocument:
    return InvalidRunDocument(f"{field} of {name(document)} is {short(value)}: it must {must}")


def _positive(
    document: RunDocument, key: str, default: float, most: float, least: float = 1e-9
) -> float:
    value = document["daq_config"].get(key, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise _invalid(document, f"daq_config.{key}", value, f"be a positive number up to {most}")
    return value


def _list(document: RunDocument, part: RunDocument, key: str, of: str = "") -> Sequence[Any]:
    """Return a list in a part of a document; empty if it is missing."""
    value = part.get(key)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise _invalid(document, of + key, value, "be a list")
    return value


def _time(document: RunDocument, key: str) -> datetime | None:
    value: Any = document.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, Mapping):
            value = value["$date"]
            if isinstance(value, Mapping):
                value = value["$numberLong"]
            if isinstance(value, (int, float)) or value.lstrip("-").isdigit():
                value = datetime.fromtimestamp(int(value) / 1000, UTC)
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError):
        must = 'be a time, as "2024-01-02T03:04:05Z" or {"$date": "2024-01-02T03:04:05Z"}'
        raise _invalid(document, key, document[key], must) from None
