"""LED calibration: single photoelectrons at a known time after the trigger of the LED."""

import logging

import numpy as np
import strax

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import LiveDataIncomplete
from amstrax.processing import led
from amstrax.strax_ext.plugin import Plugin

__all__ = ["LEDCalibration", "RecordsLED"]

log = logging.getLogger(__name__)

# A package in amstrax 2: `amstrax._legacy` finds its modules
__path__: list[str] = []


@strax.takes_config(
    strax.Option("record_length", default=110, track=False, type=int, help="Samples in a fragment"),
    strax.Option(
        "baseline_window",
        default=(0, 50),
        help="First and last (excluded) sample of the pulse to take the baseline from",
    ),
    strax.Option("n_records_per_pulse", default=2, help="Fragments in a pulse"),
)
class LEDPulses(CorrectedPlugin):
    """Base of the plugins that join the fragments of each pulse to one row."""

    data_kind = "records_led"
    compressor = "zstd"
    parallel = "process"
    rechunk_on_save = False
    save_when = strax.SaveWhen.TARGET

    def infer_dtype(self):
        n_samples = self.config["record_length"] * self.config["n_records_per_pulse"]
        kept = strax.raw_record_dtype(self.config["record_length"])[:6]
        return [*kept, (("Waveform above baseline [ADC counts]", "data"), np.float32, n_samples)]


class RecordsLED(LEDPulses):
    """Join the fragments of each pulse to one row, and subtract the baseline."""

    allow_incomplete_pulses = XAMSConfig(
        default=False,
        omit_default=True,
        help="Fill missing fragments of a pulse with zeros; its length is below pulse_length then. "
        "Without its first fragment a pulse is left out. By default a missing fragment is an "
        "error. In the lineage only where it is set",
    )

    __version__ = "1.0.0"
    depends_on = ("raw_records",)
    provides = "records_led"

    def compute(self, raw_records):
        begins, pulse = led.join_fragments(raw_records, self.config["n_records_per_pulse"])
        lost = np.flatnonzero(pulse < 0)
        if len(lost):
            log.warning("%d fragments belong to no LED pulse, and are left out", len(lost))
        result = np.zeros(len(begins), dtype=self.dtype)
        for field in ("time", "dt", "channel", "pulse_length", "record_i"):
            result[field] = raw_records[field][begins]
        result["length"] = np.bincount(
            pulse[pulse >= 0], weights=raw_records["length"][pulse >= 0], minlength=len(begins)
        )
        result["data"] = led.baselined_pulses(
            raw_records, pulse, len(begins), result["data"].shape[1], self.config["baseline_window"]
        )
        if not self.allow_incomplete_pulses:
            self.check_complete(raw_records[lost], result)
        return result

    def check_complete(self, lost: np.ndarray, pulses: np.ndarray) -> None:
        """Raise LiveDataIncomplete if `pulses`, rows of records_led, lack fragments.

        `lost` are raw records that belong to no pulse.
        """
        n_fragments = self.config["n_records_per_pulse"]
        n_samples = np.minimum(pulses["pulse_length"], self.config["record_length"] * n_fragments)
        for rows in (pulses[pulses["length"] < n_samples], lost[lost["record_i"] < n_fragments]):
            if len(rows):
                raise LiveDataIncomplete(
                    f"run {self.run_id}: the LED pulse of channel {rows['channel'][0]} at "
                    f"{rows['time'][0]} ns lacks a fragment (and {len(rows) - 1} more): copy the "
                    "run again from the DAQ, or set the option allow_incomplete_pulses=True"
                )


@strax.takes_config(
    strax.Option(
        "led_window",
        default=(80, 110),
        help="First and last (excluded) sample of the LED's light",
    ),
    strax.Option(
        "noise_window",
        default=(0, 10),
        help="First and last (excluded) sample of the noise window",
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
