"""SiPMs on a plane or a cylinder: what they see of a point of light, and where it was."""

from amstrax import attributes_of

# Public name -> the module that defines it
MEMBERS = {
    "SiPMArray": "geometry",
    "on_cylinder": "geometry",
    "on_plane": "geometry",
    "solid_angle_disc": "geometry",
    "solid_angle_rectangle": "geometry",
    "PositionFit": "positions",
    "centre_of_gravity": "positions",
    "emulate": "positions",
    "expected_photons": "positions",
    "fit_chi_square": "positions",
    "fit_poisson": "positions",
    "event_display": "display",
}

__getattr__ = attributes_of(__name__, MEMBERS)
