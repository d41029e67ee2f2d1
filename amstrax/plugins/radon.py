"""The chain of XAMSL, with data types ``radon_*``; class names are part of the lineage."""

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import LiveDataCorrupted
from amstrax.hitfinder_thresholds import hit_min_amplitude
from amstrax.plugins.daqreader import LiveDataReader
from amstrax.plugins.peak_processing import (
    GAINS_HELP,
    WINDOW_HELP,
    check_safe_break_for_peaks,
    check_window,
    peak_basics,
    peak_basics_dtype,
)
from amstrax.plugins.pulse_processing import PulseProcessingBase
from amstrax.processing import peaks as kernels
from amstrax.processing import splitting, waveforms
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.events import index_of_container
from amstrax.processing.peaks import find_hits as hits_above

__all__ = ["DAQReader", "RadonHits", "RadonPeakBasics", "RadonPeaks", "RadonPulseProcessing"]


@strax.takes_config(
    strax.Option(
        "channel_map",
        track=False,
        type=immutabledict,
        help="First and last channel of each digitizer",
    ),
)
class DAQReader(LiveDataReader):
    """Read the live data of XAMSL and sort it into raw records by digitizer, as digitised.

    - raw_records_v1724: the V1724 digitizer, a sample every 10 ns
    - raw_records_v1730: the V1730 digitizer, a sample every 2 ns
    - raw_records_aqmon: regions of artificial dead time, mostly empty
    """

    __version__ = "0.0.0"
    provides = ("raw_records_v1724", "raw_records_v1730", "raw_records_aqmon")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    rechunk_on_save = immutabledict.fromkeys(provides, False)
    compressor = "zstd"
    dead_time_channel = 40
    redax_dead_time_channels = (40,)

    def subdetectors(self):
        return {
            f"raw_records_{name}": tuple(channels)
            for name, channels in self.config["channel_map"].items()
        }


def _hit_min_amplitude() -> XAMSConfig:
    help_ = "Threshold of the hit finder [ADC counts above baseline], see amstrax.hit_min_amplitude"
    return XAMSConfig(default="xamsl_thresholds", help=help_)


class RadonPulseProcessing(PulseProcessingBase):
    """Turn XAMSL's raw records, of the digitizer with data, into records; count pulses.

    1. Blank samples beyond the length of each fragment
    2. Subtract the baseline and invert pulses, which become positive
    3. Integrate, and count pulses per channel
    4. Find hits; apply the filter, if set; blank samples far from hits
    """

    baseline_samples = XAMSConfig(
        default=40, help="Samples at the start of a pulse to take the baseline from"
    )
    hit_min_amplitude = _hit_min_amplitude()

    __version__ = "0.2.29"
    depends_on = ("raw_records_v1724", "raw_records_v1730")
    provides = ("radon_records", "radon_pulse_counts")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    rechunk_on_save = immutabledict(radon_records=False, radon_pulse_counts=True)
    save_when = immutabledict.fromkeys(provides, strax.SaveWhen.TARGET)

    def compute(self, raw_records_v1724, raw_records_v1730, start, end):
        if len(raw_records_v1724) and len(raw_records_v1730):
            raise LiveDataCorrupted(
                f"both digitizers have data between {start} and {end} ns, V1724 "
                f"{len(raw_records_v1724)} and V1730 {len(raw_records_v1730)} fragments: the chain "
                "can process one of them. Are the channels in channel_map those of this run?"
            )
        raw_records = raw_records_v1724 if len(raw_records_v1724) else raw_records_v1730
        records, counts = self.records_and_counts(raw_records, start, end, flip=True)
        hits = find_hits(records, self.hit_min_amplitude)
        if self.pmt_pulse_filter is not None:
            strax.filter_records(records, np.array(self.pmt_pulse_filter))
        records = strax.cut_outside_hits(records, hits, *self.save_outside_hits)
        strax.zero_out_of_bounds(records)
        return dict(radon_records=records, radon_pulse_counts=counts)


class RadonHits(CorrectedPlugin):
    """Intervals of records in which samples are above threshold, in the order of the records."""

    hit_min_amplitude = _hit_min_amplitude()
    save_outside_hits = XAMSConfig(default=(3, 20), help="Not used; part of the lineage")

    __version__ = "0.0.7"
    depends_on = ("radon_records",)
    provides = "radon_hits"
    data_kind = "radon_hits"
    dtype = strax.hit_dtype
    parallel = "process"
    rechunk_on_save = False

    def compute(self, radon_records):
        return find_hits(radon_records, self.hit_min_amplitude)


def find_hits(records: np.ndarray, model) -> np.ndarray:
    """Return the hits in records above the threshold `model`, in the order of the records."""
    return hits_above(records, hit_min_amplitude(model))


@strax.takes_config(
    strax.Option(
        "diagnose_sorting",
        default=False,
        track=False,
        help="Check that the data is sorted and peaks do not overlap",
    ),
    strax.Option("n_tpc_pmts", type=int, help="Number of channels of the TPC"),
    strax.Option("channel_map", track=False, type=immutabledict, help="Not used"),
)
class RadonPeaks(CorrectedPlugin):
    """Find peaks: groups of hits, with sum waveform and widths, split at natural breaks.

    radon_lone_hits are hits outside peaks, in ADC counts.

    Without gains (xamsl_gain_to_pe_array) areas are in ADC counts x samples, and so are the options
    in PE: peak_min_area, peak_split_min_area and the areas of peak_split_gof_threshold.
    hit_min_amplitude is always in ADC counts.
    """

    peak_gap_threshold = XAMSConfig(
        default=3000, help="An interval this long without hits ends a peak [ns]"
    )
    peak_left_extension = XAMSConfig(
        default=1000, help="Peaks begin this long before their first hit [ns]"
    )
    peak_right_extension = XAMSConfig(
        default=1000, help="Peaks end this long after their last hit [ns]"
    )
    peak_min_pmts = XAMSConfig(default=1, help="Least number of channels with hits in a peak")
    peak_split_gof_threshold = XAMSConfig(
        default=(None, ((0.5, 1.0), (6.0, 0.4)), ((2.5, 1.0), (5.625, 0.4))),
        help="Least goodness of split that splits a peak: (None, S1 curve, S2 curve), each "
        "curve points (log10 area [PE], goodness)",
    )
    peak_split_filter_wing_width = XAMSConfig(
        default=70, help="Wing of the moving average over the waveform before it is split [ns]"
    )
    peak_split_min_area = XAMSConfig(default=40.0, help="Least area of a peak to split [PE]")
    peak_split_iterations = XAMSConfig(
        default=20, help="Largest number of times that parts are split again"
    )
    saturation_correction_on = XAMSConfig(default=True, help="Not used; part of the lineage")
    saturation_reference_length = XAMSConfig(default=100, help="Not used; part of the lineage")
    saturation_min_reference_length = XAMSConfig(default=20, help="Not used; part of the lineage")
    peak_min_area = XAMSConfig(default=1, help="Least area of the hits of a peak [PE]")
    single_channel_peaks = XAMSConfig(default=False, help="Not used; part of the lineage")
    peak_split_min_height = XAMSConfig(default=25, help="Not used; part of the lineage")
    peak_split_min_ratio = XAMSConfig(default=4, help="Not used; part of the lineage")
    pmt_channel = XAMSConfig(default=0, help="Not used; part of the lineage")
    peak_max_duration = XAMSConfig(default=int(10e6), help="Longest duration of a peak [ns]")
    hit_min_amplitude = _hit_min_amplitude()
    xamsl_gain_to_pe_array = XAMSConfig(
        default=None,
        omit_default=True,
        help=f"{GAINS_HELP}. Not gain_to_pe_array: its published files have the gains of XAMS. In "
        "the lineage only where it is set",
    )
    tight_coincidence_window = XAMSConfig(default=None, omit_default=True, help=WINDOW_HELP)

    __version__ = "0.1.78"
    depends_on = ("radon_records",)
    provides = ("radon_peaks", "radon_lone_hits")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    rechunk_on_save = immutabledict.fromkeys(provides, True)
    compressor = "zstd"
    parallel = "process"
    caution = "XAMSL has no gains, so areas are in ADC counts x samples, not PE"
    gains_option = "xamsl_gain_to_pe_array"

    def infer_dtype(self):
        return {
            "radon_peaks": strax.peak_dtype(n_channels=self.config["n_tpc_pmts"]),
            "radon_lone_hits": strax.hit_dtype,
        }

    def setup(self):
        super().setup()
        check_window(self)
        check_safe_break_for_peaks(self)
        self.to_pe = kernels.gains(
            self.xamsl_gain_to_pe_array, self.config["n_tpc_pmts"], self.origin(self.gains_option)
        )

    def compute(self, radon_records, start, end):
        hits = sort_by_time(find_hits(radon_records, self.hit_min_amplitude))
        peaks = kernels.find_peaks(
            hits,
            self.to_pe,
            self.dtype["radon_peaks"],
            gap_threshold=self.peak_gap_threshold,
            left_extension=self.peak_left_extension,
            right_extension=self.peak_right_extension,
            min_area=self.peak_min_area,
            min_channels=self.peak_min_pmts,
            max_duration=self.peak_max_duration,
        )
        kernels.clip_peaks(peaks, start, end)
        lone_hits, hitlets = self.integrate_hits(hits, peaks, radon_records, start, end)
        peaks = self.shape(peaks, hitlets, radon_records)
        peaks["n_hits"] = kernels.count_touching(hitlets, peaks)
        kernels.set_center_times(peaks)
        if self.tight_coincidence_window is not None:
            kernels.set_hit_features(peaks, hitlets, self.tight_coincidence_window)
        if self.config["diagnose_sorting"]:
            kernels.check_disjoint(peaks)
        return dict(radon_peaks=peaks, radon_lone_hits=lone_hits)

    def integrate_hits(
        self, hits: np.ndarray, peaks: np.ndarray, records: np.ndarray, start: int, end: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return lone hits, integrated, and other hits, widened to their integration bounds."""
        n_channels = self.config["n_tpc_pmts"]
        extensions = (self.peak_left_extension, self.peak_right_extension)
        is_lone = index_of_container(hits, peaks) == -1
        lone_hits = hits[is_lone]
        strax.integrate_lone_hits(lone_hits, records, peaks, extensions, n_channels)
        hitlets = hits[~is_lone]
        outside = kernels.between_peaks(peaks, start, end)
        strax.find_hit_integration_bounds(
            hitlets, outside, records, extensions, n_channels, allow_bounds_beyond_records=True
        )
        return lone_hits, sort_by_time(kernels.widen_hits(hitlets))

    def shape(self, peaks: np.ndarray, hitlets: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Return peaks with waveforms and widths, split at natural breaks."""
        source = hitlets, records, waveforms.record_links(records), self.to_pe
        waveforms.sum_waveform(peaks, *source)
        waveforms.set_widths(peaks)
        find_splits = splitting.natural_breaks_splits(
            splitting.natural_breaks_threshold(self.peak_split_gof_threshold),
            self.peak_split_filter_wing_width,
            self.peak_split_min_area,
        )
        return splitting.split_peaks(peaks, *source, find_splits, self.peak_split_iterations)


@strax.takes_config(
    strax.Option(
        "check_peak_sum_area_rtol",
        default=None,
        track=False,
        help="Fail if channels do not add up to a peak's area within this fraction [1]; "
        "None not to check",
    ),
)
class RadonPeakBasics(CorrectedPlugin):
    """Basic properties of peaks: times, area, widths, fraction seen by the top PMT."""

    top_pmt = XAMSConfig(default=1, help="Channel of the top PMT")
    min_area_fraction = XAMSConfig(default=0.5, help="Not used; part of the lineage")
    nearby_window = XAMSConfig(default=int(1e6), help="Not used; part of the lineage")

    __version__ = "0.1.24"
    depends_on = ("radon_peaks",)
    provides = "radon_peak_basics"
    data_kind = "radon_peaks"
    dtype = peak_basics_dtype(with_hits=False, type_dtype=np.int8, data_type="radon_peak_basics")
    parallel = "process"
    rechunk_on_save = False

    def compute(self, radon_peaks):
        result = peak_basics(radon_peaks, self.dtype, self.config["check_peak_sum_area_rtol"])
        top = self.top_pmt
        result["area_fraction_top"] = kernels.area_fraction_top(
            radon_peaks["area_per_channel"], (top, top)
        )
        result["type"] = radon_peaks["type"]
        return result
