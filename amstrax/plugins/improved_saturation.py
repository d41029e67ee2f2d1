"""Reconstruction part ``saturation``: areas of signals that reach the end of the ADC.

The lab's areas sum what the ADC has recorded, and only count the channels that reach its end: of
large signals up to more than half is lost.
"""

from numbers import Real

import numpy as np

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption
from amstrax.plugins.improved_peaks import AREA_FANO_HELP
from amstrax.plugins.peak_processing import GAINS_HELP
from amstrax.processing import peaks as kernels
from amstrax.processing import saturation
from amstrax.processing.pulses import ADC_MAX


def check_number(plugin: CorrectedPlugin, name: str, above: float, kind: str) -> None:
    """Raise InvalidOption where an option is no finite number above a limit; `kind` names these."""
    value = getattr(plugin, name)
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not above < float(value) < np.inf:
        raise InvalidOption(f"{name}={value!r}: give {kind}")


class SaturationPeaks(CorrectedPlugin):
    """Peaks whose samples at the end of the ADC are those of unsaturated channels, scaled."""

    gain_to_pe_array = XAMSConfig(default=None, help=GAINS_HELP)
    saturation_max_error = XAMSConfig(
        default=0.3,
        help="Saturated peaks are corrected where the light of a channel in its saturated samples "
        "is known within this standard deviation [fraction of that light]",
    )
    area_fano = XAMSConfig(default=1.5, help=AREA_FANO_HELP)
    pmt_saturation_charge = XAMSConfig(
        default=None,
        help="Charge that halves the gain of a PMT when its base has lost it [PE], a number that "
        "must be measured; None: no correction for it",
    )

    def peak_dtype(self):
        n_channels = self.n_channels  # type: ignore[attr-defined]  # of PeaksBase
        return super().peak_dtype() + saturation.fields(n_channels)  # type: ignore[misc]

    def setup(self):
        super().setup()
        for name in ("saturation_max_error", "area_fano", "pmt_saturation_charge"):
            if name != "pmt_saturation_charge" or self.pmt_saturation_charge is not None:
                check_number(self, name, 0, "a number above 0")

    def find_peaks(self, records, start, end):
        peaks = super().find_peaks(records, start, end)  # type: ignore[misc]  # of PeaksBase
        charge = self.pmt_saturation_charge
        goes_up = self.correct_positive_polarity  # type: ignore[attr-defined]  # of PeaksBase
        saturation.correct_saturation(
            peaks,
            records,
            kernels.gains(
                self.gain_to_pe_array,
                peaks["area_per_channel"].shape[1],
                self.origin("gain_to_pe_array"),
            ),
            self.area_fano,
            self.saturation_max_error,
            np.inf if charge is None else charge,
            ADC_MAX if goes_up else 0,
        )
        return peaks


class SaturationPeakBasics(CorrectedPlugin):
    """Basic properties of peaks, and what was corrected for saturation."""

    def infer_dtype(self):
        return [*super().infer_dtype(), *_entries()]

    def compute(self, peaks):
        result = super().compute(peaks)
        for name in saturation.FIELDS:
            result[name] = peaks[name]
        return result


class SaturationEventBasics(CorrectedPlugin):
    """Main and alternative S1 and S2 of each event, and what was corrected for saturation."""

    def infer_dtype(self):
        return [
            *super().infer_dtype(),
            *(
                entry
                for which, prefix in (("Main", ""), ("Alternative", "alt_"))
                for sx in ("s1", "s2")
                for entry in _entries(f"{which} {sx.upper()}: ", f"{prefix}{sx}_")
            ),
        ]

    def copied_fields(self):
        return [*super().copied_fields(), *saturation.FIELDS]  # type: ignore[misc]


def _entries(title_of: str = "", prefix: str = "") -> list:
    """Return entries of a dtype for what was corrected, with a beginning of titles and names."""
    return [
        ((title_of + title, prefix + name), dtype)
        for name, (title, dtype) in saturation.FIELDS.items()
    ]
