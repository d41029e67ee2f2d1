"""LED calibration: pulses of single photoelectrons, at a known time after the LED's trigger."""

import logging

import numpy as np
import strax

from amstrax.processing import led
from amstrax.strax_ext.plugin import Plugin

__all__ = ["LEDCalibration", "RecordsLED"]

log = logging.getLogger(__name__)

# A package in amstrax 2: `amstrax._legacy` finds its modules
__path__: list[str] = []


@strax.takes_config(
    strax.Option(
        "record_length",
        default=110,
        track=False,
        type=int,
        help="Samples in a fragment",
    ),
    strax.Option(
        "baseline_window",
        default=(0, 50),
        help="First and last (excluded) sample of the pulse to take the baseline from",
    ),
    strax.Option(
        "n_records_per_pulse",
        default=2,
        help="Fragments in a pulse",
    ),
)
class RecordsLED(Plugin):
    """Join the fragments of each pulse to one row, and subtract the baseline.

    A pulse that has lost a fragment has zeros there, and a ``length`` below ``pulse_length``;
    without its first fragment it is left out.
    """

    __version__ = "1.1.0"
    depends_on = ("raw_records",)
    provides = "records_led"
    data_kind = "records_led"
    compressor = "zstd"
    parallel = "process"
    rechunk_on_save = False
    save_when = strax.SaveWhen.TARGET

    def infer_dtype(self):
        n_samples = self.config["record_length"] * self.config["n_records_per_pulse"]
        kept = strax.raw_record_dtype(self.config["record_length"])[:6]
        return [*kept, (("Waveform above baseline [ADC counts]", "data"), np.float32, n_samples)]

    def compute(self, raw_records):
        begins, pulse = led.join_fragments(raw_records, self.config["n_records_per_pulse"])
        lost = np.count_nonzero(pulse < 0)
        if lost:
            log.warning("%d fragments belong to no LED pulse, and are left out", lost)
        result = np.zeros(len(begins), dtype=self.dtype)
        for field in ("time", "dt", "channel", "pulse_length", "record_i"):
            result[field] = raw_records[field][begins]
        result["length"] = np.bincount(
            pulse[pulse >= 0], weights=raw_records["length"][pulse >= 0], minlength=len(begins)
        )
        result["data"] = led.baselined_pulses(
            raw_records, pulse, len(begins), result["data"].shape[1], self.config["baseline_window"]
        )
        return result


@strax.takes_config(
    strax.Option(
        "led_window",
        default=(80, 110),
        help="First and last (excluded) sample in which the LED's light comes",
    ),
    strax.Option(
        "noise_window",
        default=(0, 10),
        help="First and last (excluded) sample to look for noise in",
    ),
)
class LEDCalibration(Plugin):
    """Amplitude and area of each pulse in the LED's window, and amplitude of the noise before."""

    __version__ = "1.0.0"
    depends_on = ("records_led",)
    provides = "led_calibration"
    data_kind = "led_calibration"
    compressor = "zstd"
    parallel = "process"
    rechunk_on_save = False
    dtype = [
        (("Area, mean over six windows [ADC counts x samples]", "area"), np.float32),
        (("Largest sample in the LED's window [ADC counts]", "amplitude_led"), np.float32),
        (("Largest sample in the noise window [ADC counts]", "amplitude_noise"), np.float32),
        (("Channel/PMT number", "channel"), np.int16),
        (("Start time since unix epoch [ns]", "time"), np.int64),
        (("Width of one sample [ns]", "dt"), np.int16),
        (("Length of the interval in samples", "length"), np.int32),
    ]

    def compute(self, records_led):
        result = np.zeros(len(records_led), dtype=self.dtype)
        for field in ("channel", "time", "dt", "length"):
            result[field] = records_led[field]
        if len(records_led):
            data = records_led["data"]
            result["area"] = led.window_areas(data, self.config["led_window"])
            result["amplitude_led"] = data[:, slice(*self.config["led_window"])].max(axis=1)
            result["amplitude_noise"] = data[:, slice(*self.config["noise_window"])].max(axis=1)
        return result
