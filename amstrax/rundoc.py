"""Run documents: reading one from JSON, and what the reader of live data needs of it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amstrax.exceptions import InvalidRunDocument

RunDocument = Mapping[str, Any]

#: Key of metadata of data, and of its entry in a run document: what live data was missing
MISSING_LIVE_DATA = "missing_live_data"

#: What redax takes where the DAQ's settings do not say
CHUNK_LENGTH_S, CHUNK_OVERLAP_S = 5.0, 0.5
FRAGMENT_PAYLOAD_BYTES = 220
_BYTES_PER_SAMPLE = 2

#: Names of runs, and so of their folders, jobs, logs and lock files
_RUN_NAME = re.compile(r"[0-9]{1,18}")

#: Address of a digitizer's register 0x1n80, "DPP algorithm control" of channel n
_POLARITY_REGISTER = re.compile(r"(?:0x)?1([0-9a-f])80", re.IGNORECASE)
_POLARITIES = {"110000": -1, "1110000": -1, "100000": 1, "1100000": 1}


def from_json(text: str) -> dict[str, Any]:
    """Return the run document in `text`: JSON, or the name of a file with JSON.

    Raises
    ------
    InvalidRunDocument
        When it is neither, or is no JSON object.
    """
    source = "the run document given"
    if not text.lstrip().startswith(("{", "[")):
        source = f"run document {text}"
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRunDocument(
                f"{source} cannot be read ({error}): give JSON, or the name of a file with JSON"
            ) from None
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRunDocument(
            f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    if not isinstance(document, dict):
        raise InvalidRunDocument(f"{source} is a {type(document).__name__}, not one JSON object")
    return document


def start_time(document: RunDocument) -> datetime:
    """Return the start of the run in UTC.

    It may be a datetime (without time zone: UTC), text in ISO 8601, or as MongoDB writes dates in
    JSON: ``{"$date": ...}``.

    Raises
    ------
    InvalidRunDocument
        When there is none, or it is none of these.
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
    """Return a time as MongoDB writes it in JSON, to the millisecond that it keeps."""
    text = time.astimezone(UTC).isoformat(timespec="milliseconds")
    return {"$date": text.replace("+00:00", "Z")}


def name(document: RunDocument) -> str:
    """Return what to call the run in messages."""
    return f"run {document.get('name') or document.get('number') or '(without number)'}"


def check_run_name(name: object) -> str:
    """Return the name of a run if a path may be made of it: digits only.

    Raises
    ------
    InvalidRunDocument
        When it is anything else.
    """
    if not isinstance(name, str) or not _RUN_NAME.fullmatch(name):
        raise InvalidRunDocument(
            f"a run is called {_short(name)}, which cannot be the name of its folder: give it "
            "digits, as 006724"
        )
    return name


def check_location(location: object) -> Path:
    """Return the folder that an entry of data in a run document names.

    Raises
    ------
    InvalidRunDocument
        When that is no whole path of one line.
    """
    if not isinstance(location, str) or not location.startswith("/") or not location.isprintable():
        raise InvalidRunDocument(
            f"its document has live data in {_short(location)}, which is no folder: give the whole "
            "path"
        )
    return Path(location)


def _short(value: object) -> str:
    """Return a value as it is quoted in an error."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}..."


def live_folders(document: RunDocument) -> list[str]:
    """Return the folders that are said to hold the run's live data, on whichever host."""
    entries = document.get("data") or ()
    folders = [
        entry.get("location")
        for entry in entries
        if isinstance(entry, Mapping) and entry.get("type") == "live"
    ]
    daq_config = document.get("daq_config")
    if isinstance(daq_config, Mapping):
        folders.append(daq_config.get("strax_output_path"))
    return [folder for folder in folders if isinstance(folder, str) and folder]


def reader_config(document: RunDocument) -> dict[str, Any]:
    """Return the options of the reader of live data that follow from a run document.

    Raises
    ------
    InvalidRunDocument
        When daq_config is missing or has odd values; the message names the value.
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
        or not all(isinstance(n, int) and n > 0 for n in threads.values())
    ):
        raise InvalidRunDocument(
            f"daq_config.processing_threads of {name(document)} is {threads!r}: it must name the "
            'readout processes with their numbers of threads, as {"xams-daq_reader_0": 1}'
        )
    length = _positive(document, "strax_chunk_length", CHUNK_LENGTH_S)
    overlap = _positive(document, "strax_chunk_overlap", CHUNK_OVERLAP_S)
    payload = _positive(
        document, "strax_fragment_payload_bytes", FRAGMENT_PAYLOAD_BYTES, _BYTES_PER_SAMPLE
    )
    if payload % _BYTES_PER_SAMPLE:
        raise InvalidRunDocument(
            f"daq_config.strax_fragment_payload_bytes of {name(document)} is {payload!r}: it must "
            f"be a whole number of samples of {_BYTES_PER_SAMPLE} bytes"
        )
    registers = daq_config.get("registers") or ()
    if not isinstance(registers, Sequence):
        raise InvalidRunDocument(
            f"daq_config.registers of {name(document)} is {registers!r}: it must be a list"
        )
    return dict(
        run_start_time=start_time(document).timestamp(),
        readout_threads=dict(threads),
        daq_chunk_duration=round(length * 1e9),
        daq_overlap_chunk_duration=round(overlap * 1e9),
        daq_compressor=daq_config.get("compressor") or "lz4",
        record_length=int(payload) // _BYTES_PER_SAMPLE,
        channels_polarity=channels_polarity(registers),
    )


def channels_polarity(registers: Any) -> dict[int, int]:
    """Return +1 or -1 for channels whose digitizer register says which way pulses go.

    `registers` are entries {"reg": address, "val": value, ...} with hexadecimal text.
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


def _positive(document: RunDocument, key: str, default: float, least: float = 1e-9) -> float:
    value = document["daq_config"].get(key, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value < math.inf:
        raise InvalidRunDocument(
            f"daq_config.{key} of {name(document)} is {value!r}: it must be a positive number"
        )
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
        raise InvalidRunDocument(
            f"{key} of {name(document)} is {document[key]!r}: it must be a time, as "
            '"2024-01-02T03:04:05Z" or {"$date": "2024-01-02T03:04:05Z"}'
        ) from None
