"""Which channels a context has, by its config."""

from collections.abc import Mapping

import numpy as np
import strax


def ranges(context: strax.Context) -> Mapping[str, tuple[int, int]]:
    """Return name -> first and last channel of each part of the detector."""
    return context.config.get("channel_map", {})


def channels_of(context: strax.Context, data_type: str) -> list[int]:
    """Return the channels that a data type has, by the channel map and n_tpc_pmts.

    Data types of the external detector and of the SiPM are those whose names end so.
    """
    parts = ranges(context)
    for ending, part in (("_ext", "external"), ("_sipm", "sipm")):
        if data_type.endswith(ending) and part in parts:
            return _numbers(parts[part])
    for part in parts:
        if data_type == f"raw_records_{part}":
            return _numbers(parts[part])
    return list(range(int(context.config["n_tpc_pmts"])))


def top_channels(context: strax.Context) -> list[int]:
    """Return the channels of the top PMTs; none where the channel map has no such part."""
    return _numbers(ranges(context)["top"]) if "top" in ranges(context) else []


def _numbers(first_and_last: tuple[int, int]) -> list[int]:
    first, last = first_and_last
    return np.arange(first, last + 1).tolist()
