"""Reconstruction part ``pulse_shape``: prompt fraction and decay time of S1s."""

import numpy as np

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.plugins.improved_peaks import AREA_FANO_HELP
from amstrax.plugins.peak_processing import OF_S1, check_numbers, dtype_of
from amstrax.processing import pulse_shape
from amstrax.processing.peaks import S1
from amstrax.processing.saturation import CORRECTED

#: Field -> title, type
_FIELDS: dict[str, tuple[str, type]] = {
    "prompt_fraction": ("fraction of the area that is prompt, S1s only [1]", np.float32),
    "decay_time": ("decay time of the tail, S1s only [ns]", np.float32),
    "decay_time_error": ("standard deviation of decay_time [ns]", np.float32),
    "pulse_shape_flag": (
        "pulse shape: 0 known; NaN for 1 no S1, 2 too little light, 3 saturated, 4 samples too "
        "wide; 5 tail does not fall, decay time NaN",
        np.int8,
    ),
}


class PulseShapePeakBasics(CorrectedPlugin):
    """Basic properties of peaks, and the pulse shape of S1s."""

    pulse_shape_min_area = XAMSConfig(
        default=50, help="S1s have a pulse shape from this area on [PE]"
    )
    pulse_shape_prompt_time = XAMSConfig(
        default=15, help="Light up to this time after half of the maximum is reached is prompt [ns]"
    )
    decay_fit_start = XAMSConfig(
        default=30, help="The tail begins this long after half of the maximum is reached [ns]"
    )
    decay_fit_length = XAMSConfig(default=200, help="Length of the tail [ns]")
    area_fano = XAMSConfig(default=1.5, help=AREA_FANO_HELP)

    added_fields = dtype_of(_FIELDS)

    def setup(self):
        super().setup()
        positive = "pulse_shape_min_area", "decay_fit_length", "area_fano"
        check_numbers(self, "a number above 0", *positive, above=0)
        times = "pulse_shape_prompt_time", "decay_fit_start"
        check_numbers(self, "a time [ns]", *times, above=-np.inf)

    def compute(self, peaks):
        result = super().compute(peaks)
        is_saturated = peaks["n_saturated_channels"] > 0
        if "saturation_flag" in (peaks.dtype.names or ()):
            is_saturated &= peaks["saturation_flag"] > CORRECTED
        flag = np.select(
            [
                result["type"] != S1,
                result["area"] < self.pulse_shape_min_area,
                is_saturated,
                peaks["dt"] * 2 > self.decay_fit_length,
            ],
            [
                pulse_shape.NO_S1,
                pulse_shape.TOO_LITTLE_LIGHT,
                pulse_shape.SATURATED,
                pulse_shape.TOO_COARSE,
            ],
            default=pulse_shape.DONE,
        ).astype(np.int8)
        known = np.flatnonzero(flag == pulse_shape.DONE)
        found = pulse_shape.pulse_shapes(
            peaks["data"][known],
            peaks["dt"][known],
            self.pulse_shape_prompt_time,
            self.decay_fit_start,
            self.decay_fit_length,
            self.area_fano,
        )
        for name, values in found._asdict().items():
            result[name] = np.nan
            result[name][known] = values
        flag[known[np.isnan(found.decay_time)]] = pulse_shape.NO_DECAY
        result["pulse_shape_flag"] = flag
        return result


class PulseShapeEventBasics(CorrectedPlugin):
    """Main and alternative S1 and S2 of each event, and the pulse shape of the S1s."""

    added_fields = dtype_of(_FIELDS, OF_S1)

    def compute(self, events, peaks):
        result = super().compute(events, peaks)
        for prefix in OF_S1:
            absent = result[f"{prefix}index"] < 0
            result[f"{prefix}pulse_shape_flag"][absent] = pulse_shape.NO_S1
        return result
