"""From raw records to records: baselines, integrals, pulse counts."""

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.processing import pulses
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.pulses import (
    baseline_per_channel,
    channel_split,
    check_overlaps,
    mask_and_not,
    pulse_count_dtype,
)

#: Help of the option `correct_positive_polarity` of plugins that make records
CORRECT_POLARITY = (
    "Round negative baselines, those of channels with positive pulses, down, so that their quiet "
    "samples average 0. By default they are rounded towards zero, and waveforms and areas are up "
    "to 1 ADC count a sample too high. In the lineage only where it is set"
)

__all__ = [
    "PulseProcessing",
    "PulseProcessingBase",
    "PulseProcessingEXT",
    "PulseProcessingSiPM",
    "baseline_per_channel",
    "channel_split",
    "check_overlaps",
    "mask_and_not",
    "pulse_count_dtype",
]


@strax.takes_config(
    strax.Option("n_tpc_pmts", type=int, help="Number of channels of the TPC"),
    strax.Option(
        "check_raw_record_overlaps",
        default=True,
        track=False,
        help="Fail when two pulses of a channel overlap",
    ),
    strax.Option(
        "allow_sloppy_chunking",
        default=True,
        track=False,
        help="Take a fixed baseline of 16000 ADC counts for a pulse that has lost its beginning",
    ),
)
class PulseProcessingBase(CorrectedPlugin):
    """Base of the plugins that make records and pulse counts, ``provides`` in this order."""

    pmt_pulse_filter = XAMSConfig(
        default=None,
        help="Impulse response of a filter for the pulses, an odd number of samples; None for "
        "none. Not used by records; part of the lineage",
    )
    save_outside_hits = XAMSConfig(
        default=(3, 20),
        help="Samples to keep before and behind each hit. Not used by records; part of the lineage",
    )

    parallel = "process"
    compressor = "zstd"

    def infer_dtype(self):
        first_input = self.deps[self.depends_on[0]].dtype_for(self.depends_on[0])
        record_length = strax.record_length_from_dtype(first_input)
        records, counts = self.provides
        return {
            records: strax.record_dtype(record_length),
            counts: pulse_count_dtype(self.config["n_tpc_pmts"]),
        }

    def records_and_counts(
        self, raw_records: np.ndarray, start: int, end: int, flip: bool, floor: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return baselined records and pulse counts of the chunk [start, end)."""
        n_channels = self.config["n_tpc_pmts"]
        if self.config["check_raw_record_overlaps"]:
            check_overlaps(raw_records, n_channels)
        records = pulses.raw_to_records(
            raw_records,
            self.baseline_samples,
            flip=flip,
            allow_sloppy_chunking=self.config["allow_sloppy_chunking"],
            floor=floor,
        )
        return records, pulses.count_pulses(records, n_channels, start, end, floor)


class PulseProcessing(PulseProcessingBase):
    """Turn the TPC's raw records into records, and count pulses.

    1. Blank samples beyond the length of each fragment
    2. Subtract the baseline and invert pulses, which become positive
    3. Integrate
    4. Count pulses and lone pulses per channel: pulse_counts has a row per chunk

    Records are stored whole, without a search for hits.
    """

    baseline_samples = XAMSConfig(
        default=20, help="Samples at the start of a pulse to take the baseline from"
    )
    hit_min_amplitude = XAMSConfig(
        default="xams_thresholds",
        help="Not used; part of the lineage. Records are stored whole, and hits of peaks have a "
        "fixed threshold of 15 ADC counts",
    )
    correct_positive_polarity = XAMSConfig(default=False, omit_default=True, help=CORRECT_POLARITY)

    __version__ = "0.3.0"
    depends_on = ("raw_records",)
    provides = ("records", "pulse_counts")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    rechunk_on_save = immutabledict(records=False, pulse_counts=True)
    save_when = immutabledict(records=strax.SaveWhen.TARGET, pulse_counts=strax.SaveWhen.ALWAYS)

    def compute(self, raw_records, start, end):
        records, counts = self.records_and_counts(
            raw_records, start, end, flip=True, floor=self.correct_positive_polarity
        )
        return dict(records=records, pulse_counts=counts)


class PulseProcessingEXT(CorrectedPlugin):
    """Turn raw records of the external detector into records: baseline and integral."""

    baseline_samples = PulseProcessing.baseline_samples
    correct_positive_polarity = PulseProcessing.correct_positive_polarity

    __version__ = "0.0.1"
    depends_on = ("raw_records_ext",)
    provides = "records_ext"
    data_kind = "records_ext"
    parallel = "process"
    compressor = "zstd"
    rechunk_on_save = False
    save_when = strax.SaveWhen.TARGET

    #: Whether raw pulses are negative, and are inverted
    flip = True

    def infer_dtype(self):
        raw_records = self.deps[self.depends_on[0]].dtype_for(self.depends_on[0])
        return strax.record_dtype(strax.record_length_from_dtype(raw_records))

    def compute(self, raw_records_ext):
        return self.records(raw_records_ext)

    def records(self, raw_records: np.ndarray) -> np.ndarray:
        """Return records with baseline subtracted, inverted if `flip`, and integrated."""
        return pulses.raw_to_records(
            sort_by_time(raw_records),
            self.baseline_samples,
            flip=self.flip,
            floor=self.correct_positive_polarity,
        )


class PulseProcessingSiPM(PulseProcessingEXT):
    """Turn raw records of the SiPM into records: baseline and integral."""

    depends_on = ("raw_records_sipm",)
    provides = "records_sipm"
    data_kind = "records_sipm"
    save_when = strax.SaveWhen.ALWAYS

    def compute(self, raw_records_sipm):
        return self.records(raw_records_sipm)
