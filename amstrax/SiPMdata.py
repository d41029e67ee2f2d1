"""SiPMs on a plane or a cylinder: expected light of a point source, and its position.

All names are those of `amstrax.sipm`:

- geometry: `SiPMArray`, `on_plane`, `on_cylinder`, `solid_angle_rectangle`, `solid_angle_disc`
- light: `expected_photons`, `emulate`
- position: `centre_of_gravity`, `fit_chi_square`, `fit_poisson` (with iminuit), `PositionFit`
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
