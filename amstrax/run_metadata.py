"""Run class, radioactive source and NaI read-out of a run, from its document.

Functions accept any run document, also an invalid one, and never raise. strax is not imported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from immutabledict import immutabledict

from amstrax import rundoc

__all__ = [
    "DEFAULT_CHANNEL_MAP",
    "get_run_class",
    "get_source_type",
    "has_nai_detector",
    "has_nai_source",
    "is_led_run",
    "nai_channel_enabled",
    "reader_channel_map",
    "run_class_source",
    "source_type_source",
]

#: Channel map of runs whose document has none
DEFAULT_CHANNEL_MAP = rundoc.XAMS_CHANNEL_MAP

_BOOKKEEPING = "xams_bookkeeping"
_BY_MODE = "legacy mode fallback"
#: Group of the NaI detector in the channel map
_NAI = "external"
#: Address of a digitizer's register with the mask of its channels
_MASK_REGISTER = "8120"


def get_run_class(document: Any) -> str:
    """Return the class of a run: ``science``, ``calibration``, ``led``, ``test``, ...

    The class is ``xams_bookkeeping.run_class`` in lower case. Without that field it is ``led`` if
    ``mode`` contains "led", otherwise ``science``.
    """
    return _said(document, "run_class") or ("led" if "led" in _mode(document) else "science")


def run_class_source(document: Any) -> str:
    """Return the source of the result of `get_run_class`."""
    return f"{_BOOKKEEPING}.run_class" if _said(document, "run_class") else _BY_MODE


def is_led_run(document: Any) -> bool:
    """Return whether a run is for LED calibration."""
    return get_run_class(document) == "led"


def get_source_type(document: Any) -> str:
    """Return the radioactive source of a run, such as ``na22``; ``none`` without source.

    The source is ``xams_bookkeeping.source_type`` in lower case, with ``nai22`` read as ``na22``.
    Without that field it is ``na22`` if ``mode`` contains either, otherwise ``none``. It is for
    information only: no processing depends on it.
    """
    source = _said(document, "source_type")
    if not source:
        mode = _mode(document)
        source = "na22" if "na22" in mode or "nai22" in mode else "none"
    return "na22" if source == "nai22" else source


def source_type_source(document: Any) -> str:
    """Return the source of the result of `get_source_type`."""
    return f"{_BOOKKEEPING}.source_type" if _said(document, "source_type") else _BY_MODE


def reader_channel_map(document: Any) -> Mapping[str, Any]:
    """Return ``xams_bookkeeping.channel_map``, or `DEFAULT_CHANNEL_MAP` if it is missing."""
    value = rundoc.value_at(document, f"{_BOOKKEEPING}.channel_map")
    if not isinstance(value, Mapping) or not value:
        return DEFAULT_CHANNEL_MAP
    return immutabledict(rundoc.with_pairs(value))


def nai_channel_enabled(document: Any) -> bool | None:
    """Return whether the digitizers read out a channel of the NaI detector; None if unknown.

    The result depends on the last channel mask of each board (register 8120).
    """
    channel_map = reader_channel_map(document)
    if _NAI not in channel_map:
        return False
    nai = rundoc.channels_in_map_group(channel_map, _NAI)
    boards = rundoc.value_at(document, "daq_config.channels")
    if not nai or not isinstance(boards, Mapping):
        return None
    masks = _channel_masks(document)
    known = {board: masks[str(board)] for board in boards if str(board) in masks}
    for board, mask in known.items():
        channels = boards[board]
        if not isinstance(channels, Sequence) or isinstance(channels, (str, bytes)):
            continue
        for i, channel in enumerate(channels):
            if mask >> i & 1 and isinstance(channel, (int, float)) and channel in nai:
                return True
    return False if known else None


def has_nai_detector(document: Any) -> bool:
    """Return whether a run has data of the NaI detector.

    The result is that of `nai_channel_enabled`. If that is None, it is whether the channel map has
    channels of the NaI detector.
    """
    enabled = nai_channel_enabled(document)
    return _NAI in reader_channel_map(document) if enabled is None else enabled


#: Old name
has_nai_source = has_nai_detector


def _channel_masks(document: Any) -> dict[str, int]:
    """Return the channel mask of each board, from the last register entry that sets it."""
    registers = rundoc.value_at(document, "daq_config.registers")
    if isinstance(registers, Mapping):
        registers = list(registers.values())
    masks = {}
    for entry in registers if isinstance(registers, (list, tuple)) else ():
        if isinstance(entry, Mapping) and str(entry.get("reg")).strip() == _MASK_REGISTER:
            try:
                masks[str(entry.get("board"))] = int(str(entry.get("val")).strip(), 16)
            except ValueError:
                masks.pop(str(entry.get("board")), None)
    return masks


def _said(document: Any, field: str) -> str:
    """Return a text field of ``xams_bookkeeping`` in lower case; empty if it is missing."""
    value = rundoc.value_at(document, f"{_BOOKKEEPING}.{field}")
    return value.strip().lower() if isinstance(value, str) else ""


def _mode(document: Any) -> str:
    value = rundoc.value_at(document, "mode")
    return value.lower() if isinstance(value, str) else ""
