"""SiPMs on a plane or a cylinder: what they see of a point of light, and where it was.

All names are those of `amstrax.sipm`, imported when they are first used:

- geometry: `SiPMArray`, `on_plane`, `on_cylinder`, `solid_angle_rectangle`, `solid_angle_disc`
- what is seen: `expected_photons`, `emulate`
- where it was: `centre_of_gravity`, `fit_chi_square`, `fit_poisson` (with iminuit), `PositionFit`
- `event_display`
"""

from typing import Any

from amstrax.sipm import MEMBERS

__all__ = list(MEMBERS)


def __getattr__(name: str) -> Any:
    if name not in MEMBERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from amstrax import sipm

    return getattr(sipm, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
