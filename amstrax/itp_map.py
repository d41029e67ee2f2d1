"""Interpolating maps: those of straxen, which is imported when one is first used.

`InterpolatingMap` gives values at positions from a map in JSON (for its form, see there);
`InterpolateAndExtrapolate` does so from points and values, weighting near points more.
`save_interpolation_formatted_map` writes a map.
"""

from typing import Any

_NAMES = ("InterpolateAndExtrapolate", "InterpolatingMap", "save_interpolation_formatted_map")

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import straxen.itp_map

    value = getattr(straxen.itp_map, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
