"""Interpolating maps of straxen, which is imported at the first use.

`InterpolatingMap` interpolates a map in JSON, `InterpolateAndExtrapolate` points and values with
inverse-distance weights. `save_interpolation_formatted_map` writes a map.
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
