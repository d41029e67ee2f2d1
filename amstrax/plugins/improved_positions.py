"""Reconstruction part ``positions``: x and y by maximum likelihood with a light map, and errors.

The lab's positions are polynomials of the shares of light in two halves of the top PMTs, which
cannot show how light falls near the wall. The likelihood uses the light of each PMT, leaves out
saturated and dead ones, and knows its own error.
"""

import functools
from collections.abc import Mapping

import numpy as np
from immutabledict import immutabledict

from amstrax import rundoc
from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.plugins.peak_processing import OF_POSITIONS, OF_S2, check_numbers, dtype_of
from amstrax.processing import likelihood_positions as likelihood
from amstrax.processing import peaks as kernels
from amstrax.processing.saturation import CORRECTED
from amstrax.simulation import optics

#: Field -> title, type
_FIELDS = {
    "x_mle": ("x by maximum likelihood [mm]", np.float32),
    "y_mle": ("y by maximum likelihood [mm]", np.float32),
    "x_mle_error": ("standard deviation of x_mle, from light alone [mm]", np.float32),
    "y_mle_error": ("standard deviation of y_mle, from light alone [mm]", np.float32),
    "r_mle_error": ("standard deviation of r_mle, from light alone [mm]", np.float32),
    "mle_deviance": (
        "deviance of the likelihood per degree of freedom, about 1 for S2s [1]",
        np.float32,
    ),
}


@functools.lru_cache(maxsize=8)
def _table_of(name: str) -> likelihood.LightTable:
    """Return the S2 light of a map of the simulation."""
    light_map = optics.load_map(name)
    return likelihood.table_from(light_map.s2_shares, light_map.geometry.radius)


class _LikelihoodByDefault(CorrectedPlugin):
    """Default of the algorithm, the same in all plugins of a context."""

    default_reconstruction_algorithm = XAMSConfig(
        default="mle", help="Algorithm of the fields x, y and r: mle, corr or cgr"
    )

    def setup(self):
        super().setup()
        chosen = self.default_reconstruction_algorithm
        if chosen not in ("mle", "corr", "cgr"):
            raise InvalidOption(
                f"default_reconstruction_algorithm={chosen!r}: give mle, corr or cgr"
            )


class LikelihoodPeakPositions(_LikelihoodByDefault):
    """Positions of peaks by maximum likelihood, with errors; the lab's positions are kept."""

    gain_to_pe_array = XAMSConfig(
        default=None,
        help="Photoelectrons per ADC count x sample, a number a channel; channels of gain 0 are "
        "dead, and left out",
    )
    position_light_map = XAMSConfig(
        default="xams",
        help="Name of a light map of amstrax.simulation.optics; or a table made from data: radius "
        "and step [mm], and light [any unit] of PMT, x and y, bottom PMT first",
    )
    position_uses_bottom = XAMSConfig(
        default=True,
        help="Use the light of the bottom PMTs too, whose ratio to the top ones must be that of "
        "the map",
    )
    position_min_area = XAMSConfig(
        default=5, help="Positions need at least this area in the channels that are used [PE]"
    )
    position_area_fano = XAMSConfig(
        default=1.5,
        help="Variance of the area of a PMT divided by its mean [PE]: 1.15 from the spread of the "
        "charge of photoelectrons, times 1.3 from double photoelectrons",
    )

    input_fields = immutabledict(
        # saturation_flag is there with the part saturation
        peaks=("area_per_channel", "saturated_channel", "saturation_flag"),
        peak_basics=("area", "area_fraction_top"),
    )

    def infer_dtype(self):
        fields = {"r_mle": ("r by maximum likelihood [mm]", np.float32), **_FIELDS}
        return dtype_of(fields, {"": "Reconstructed "}) + super().infer_dtype()

    def setup(self):
        super().setup()
        check_numbers(self, "an area of 0 or more [PE]", "position_min_area")
        parts = ("bottom", "top")
        ranges = [rundoc.channel_range(self.channel_map, part) for part in parts]
        channels = [np.arange(first, last + 1) for first, last in ranges]
        self.channels = np.concatenate(channels)
        self.table = self.light_table()
        gains = self.gain_to_pe_array
        n_channels = self.channels.max() + 1
        to_pe = kernels.gains(gains, n_channels, self.origin("gain_to_pe_array"))
        self.is_alive = to_pe[self.channels] != 0
        if not self.position_uses_bottom:
            self.is_alive[: len(channels[0])] = False

    def light_table(self) -> likelihood.LightTable:
        """Return the light of the map in `channels`."""
        value = self.position_light_map
        if isinstance(value, Mapping):
            origin = self.origin("position_light_map")
            return likelihood.check_table(value, len(self.channels), origin)
        if value not in optics.GEOMETRIES:
            hint = did_you_mean(str(value), optics.GEOMETRIES)
            raise InvalidOption(
                f"position_light_map={value!r}: give a table, not its file, or a name{hint}"
            )
        table = _table_of(value)
        if len(table.light) != len(self.channels):
            raise InvalidOption(
                f"position_light_map={value!r} has {len(table.light)} PMTs, the channel map "
                f"{len(self.channels)}: give the map of this detector"
            )
        return table

    def compute(self, peaks):
        result = super().compute(peaks)
        is_whole = peaks["saturated_channel"][:, self.channels] == 0
        if "saturation_flag" in (peaks.dtype.names or ()):
            is_whole |= (peaks["saturation_flag"] == CORRECTED)[:, np.newaxis]
        fits = likelihood.fit_positions(
            peaks["area_per_channel"][:, self.channels],
            self.is_alive & is_whole,
            self.table,
            self.position_area_fano,
            self.position_min_area,
        )
        for name, values in zip(_FIELDS, fits, strict=True):
            result[name] = values
        result["r_mle"] = kernels.radius(fits.x, fits.y)
        for axis in "xyr":
            result[axis] = result[f"{axis}_{self.default_reconstruction_algorithm}"]
        return result


class LikelihoodEventBasics(CorrectedPlugin):
    """Main and alternative S1 and S2 of each event; positions by likelihood, with errors."""

    added_fields = dtype_of(_FIELDS, OF_S2)


class LikelihoodEventPositions(_LikelihoodByDefault):
    """Position of each event, with errors."""

    added_fields = dtype_of(
        {
            f"{axis}_error": (f"error of the {axis} by maximum likelihood [mm]", np.float32)
            for axis in "xyr"
        },
        OF_POSITIONS,
    )

    def compute(self, events):
        result = super().compute(events)
        for source, prefix in zip(OF_S2, OF_POSITIONS, strict=True):
            for axis in "xyr":
                result[f"{prefix}{axis}_error"] = events[f"{source}{axis}_mle_error"]
        return result
