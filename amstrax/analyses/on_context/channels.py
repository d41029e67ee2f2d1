"""Which channels a run has, by the channel map."""

from collections.abc import Mapping

import numpy as np

from amstrax.analyses.loading import Part


def ranges(part: Part) -> Mapping[str, tuple[int, int]]:
    """Return name -> first and last channel of each part of the detector in a run."""
    channel_map = part.context.config.get("channel_map", {})
    return part.context.run_values.resolve(channel_map, part.run_id)


def channels_of(part: Part, data_type: str) -> list[int]:
    """Return the channels that a data type has, by the channel map and n_tpc_pmts.

    Data types of the external detector and of the SiPM are those whose names end so.
    """
    groups = ranges(part)
    for ending, group in (("_ext", "external"), ("_sipm", "sipm")):
        if data_type.endswith(ending) and group in groups:
            return _numbers(groups[group])
    for group in groups:
        if data_type == f"raw_records_{group}":
            return _numbers(groups[group])
    return list(range(int(part.context.config["n_tpc_pmts"])))


def top_channels(part: Part) -> list[int]:
    """Return the channels of the top PMTs; none where the channel map has no such group."""
    groups = ranges(part)
    return _numbers(groups["top"]) if "top" in groups else []


def _numbers(first_and_last: tuple[int, int]) -> list[int]:
    first, last = first_and_last
    return np.arange(first, last + 1).tolist()
