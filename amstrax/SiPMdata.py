"""SiPMs on a plane or a cylinder: expected light of a point source, and its position.

All names are those of `amstrax.sipm`:

- geometry: `SiPMArray`, `on_plane`, `on_cylinder`, `solid_angle_rectangle`, `solid_angle_disc`
- light: `expected_photons`, `emulate`
- position: `centre_of_gravity`, `fit_chi_square`, `fit_poisson` (with iminuit), `PositionFit`
- `event_display`
"""

from amstrax import attributes_of
from amstrax.sipm import MEMBERS

__all__ = list(MEMBERS)

__getattr__ = attributes_of("amstrax.sipm", MEMBERS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
