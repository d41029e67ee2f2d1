"""Where the top PMTs are in pictures of the hit pattern."""

#: Angles [degree] at which the quadrants of the top PMTs a, b, c, d begin: x is large with light
#: in a and b, y with light in a and c (see `amstrax.processing.peaks.reconstruct_positions`)
QUADRANTS = (0, 270, 90, 180)
