"""Reconstruction parts: variants of plugins that are better than the lab's, and opt-in.

A part replaces some plugins by variants that make the same data types, with their own version and
options, so their data has its own lineage. Parts combine: a plugin may be replaced by several. To
add one, write a class with what differs for each plugin, and a row in `PARTS`.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import strax
from immutabledict import immutabledict

from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.plugins import (
    improved_classification,
    improved_events,
    improved_hits,
    improved_peaks,
    improved_positions,
    improved_pulse_shape,
    improved_saturation,
)

LAB, IMPROVED = "lab", "improved"


class Part(NamedTuple):
    """Part of the reconstruction that can be chosen."""

    version: int  #: Increased when numbers change
    #: Name of a plugin class -> class that comes before it in the order of inheritance
    variants: Mapping[str, type]
    #: Plugins of data types that only this part has
    added: tuple[type[strax.Plugin], ...] = ()


def _part(version: int, *added: type[strax.Plugin], **variants: type) -> Part:
    return Part(version, immutabledict(variants), added)


#: Parts in the order in which they replace plugins; `IMPROVED` is all of them
PARTS: Mapping[str, Part] = immutabledict(
    hits=_part(1, Hits=improved_hits.ImprovedHits, Peaks=improved_hits.ImprovedPeaks),
    peaks=_part(1, Peaks=improved_peaks.MergedPeaks),
    classification=_part(
        2,
        Peaks=improved_classification.CoincidentPeaks,
        PeakBasics=improved_classification.ClassifiedPeakBasics,
        Events=improved_classification.TriggeredEvents,
        RadonPeakBasics=improved_classification.ClassifiedRadonPeakBasics,
    ),
    saturation=_part(
        1,
        Peaks=improved_saturation.SaturationPeaks,
        PeakBasics=improved_saturation.SaturationPeakBasics,
        EventBasics=improved_saturation.SaturationEventBasics,
    ),
    positions=_part(
        1,
        PeakPositions=improved_positions.LikelihoodPeakPositions,
        EventBasics=improved_positions.LikelihoodEventBasics,
        EventPositions=improved_positions.LikelihoodEventPositions,
    ),
    pulse_shape=_part(
        1,
        PeakBasics=improved_pulse_shape.PulseShapePeakBasics,
        EventBasics=improved_pulse_shape.PulseShapeEventBasics,
    ),
    events=_part(
        2,
        improved_events.EventScatters,
        improved_events.PeakShadow,
        EventBasics=improved_events.EventBasicsWithScatters,
        EventPositions=improved_events.EventPositionsOfBoth,
        CorrectedAreas=improved_events.CorrectedAreasWithErrors,
    ),
)


def parts_of(reconstruction: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the parts of a reconstruction, in the order of `PARTS`.

    `reconstruction` is ``'lab'`` or None for none, ``'improved'`` for all, or the names of one or
    several parts. Raises InvalidOption (a ValueError) for other names.
    """
    if isinstance(reconstruction, Sequence) and not isinstance(reconstruction, str):
        names = tuple(reconstruction)
    else:
        names = (LAB if reconstruction is None else reconstruction,)
    chosen: set[str] = set()
    for name in names:
        if name not in (LAB, IMPROVED, *PARTS):
            hint = did_you_mean(str(name), (LAB, IMPROVED, *PARTS))
            raise InvalidOption(f"reconstruction={reconstruction!r}: no part {name!r}{hint}")
        chosen |= {*PARTS} if name == IMPROVED else {name}
    if LAB in chosen and len(chosen) > 1:
        raise InvalidOption(
            f"reconstruction={reconstruction!r}: {LAB} goes with no part: leave it out"
        )
    return tuple(part for part in PARTS if part in chosen)


def with_parts(
    plugins: Iterable[type[strax.Plugin]], parts: Sequence[str]
) -> tuple[type[strax.Plugin], ...]:
    """Return plugins with those of `parts` (of `parts_of`) in place of the lab's."""
    result = []
    for plugin in plugins:
        own = tuple(part for part in parts if plugin.__name__ in PARTS[part].variants)
        result.append(_variant(plugin, own) if own else plugin)  # type: ignore[arg-type]
    return tuple(result)


def added_by(parts: Sequence[str]) -> tuple[type[strax.Plugin], ...]:
    """Return the plugins of data types that only `parts` (of `parts_of`) have."""
    return tuple(plugin for part in parts for plugin in PARTS[part].added)


@functools.cache
def _variant(plugin: type[strax.Plugin], parts: tuple[str, ...]) -> type[strax.Plugin]:
    """Return a plugin with some parts; the same class each time, since contexts compare classes."""
    # Later parts override earlier ones
    variants = [PARTS[part].variants[plugin.__name__] for part in reversed(parts)]
    options: dict[str, strax.Option] = dict(plugin.takes_config)
    for variant in reversed(variants):
        options |= getattr(variant, "takes_config", {})
    versions = [f"{part}{PARTS[part].version}" for part in parts]
    members: dict[str, Any] = {
        "__doc__": f"{variants[0].__doc__}\n\n    Reconstruction: {', '.join(parts)}.",
        "__module__": __name__,
        "__qualname__": _name(plugin, parts),
        "__version__": "+".join([plugin.__version__, *versions]),
        "takes_config": immutabledict(options),
        # strax gives a base class that is registered a name of its own, which variants would take
        "provides": strax.to_str_tuple(plugin.provides),
    }
    # Input is narrowed only in a class that defines both attributes itself
    narrow = {"input_fields", "compute"}
    computes = next((c for c in variants if "compute" in vars(c)), plugin)
    if narrow <= vars(computes).keys():
        members |= {name: vars(computes)[name] for name in narrow}
    return type(plugin.__name__, (*variants, plugin), members)


def _name(plugin: type[strax.Plugin], parts: tuple[str, ...]) -> str:
    """Return the name by which `__getattr__` finds a variant; pickle splits names at dots."""
    module = plugin.__module__.removeprefix("amstrax.plugins.")
    return "-".join((module, plugin.__name__, *parts))


def __getattr__(name: str) -> Any:
    """Return a variant by its name, for pickle: classes made here are in no module."""
    module, _, rest = name.partition("-")
    plugin_name, *parts = rest.split("-")
    if not parts:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    plugin = getattr(import_module(f"amstrax.plugins.{module}"), plugin_name)
    return _variant(plugin, tuple(parts))
