"""From records to peaks: hits, sum waveforms, properties, positions, coincidences."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import ClassVar

import numpy as np
import strax
from immutabledict import immutabledict
from numpy.typing import DTypeLike

from amstrax import rundoc
from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption
from amstrax.plugins.daqreader import CHANNEL_MAP_HELP, check_safe_break
from amstrax.processing import coincidences, live_data, splitting, waveforms
from amstrax.processing import peaks as kernels
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.pulses import ADC_MAX, steady_baselines
from amstrax.strax_ext.plugin import Plugin

_NOT_SIPM = "Not used by peak_basics_sipm; part of the lineage"

#: Help of the option `tight_coincidence_window` of plugins that find peaks
WINDOW_HELP = (
    "Hits within this time of the largest sample of a peak are in tight coincidence [ns], as 50. "
    "Where it is set, tight_coincidence, first_channel, last_channel, min_diff and max_diff are "
    "filled, and n_hits and max_gap of parts of split peaks; None leaves them empty. In the "
    "lineage only where it is set"
)

#: Help of the option `gain_to_pe_array` of plugins that find peaks
GAINS_HELP = "Photoelectrons per ADC count x sample, a number a channel; None for ones"

__all__ = [
    "Hits",
    "LoneHits",
    "PeakBasics",
    "PeakBasicsEXT",
    "PeakBasicsSiPM",
    "PeakCoincidences",
    "PeakPositions",
    "Peaks",
    "PeaksEXT",
    "PeaksSiPM",
    "SingleElectrons",
]

_SX = ("s1", "s2")
_DIFFERENCES = ("max_diff", "min_diff")

#: Beginning of names of the fields of S1s and S2s of events -> beginning of their titles
SIGNALS = {
    "s1_": "Main S1: ",
    "s2_": "Main S2: ",
    "alt_s1_": "Alternative S1: ",
    "alt_s2_": "Alternative S2: ",
}
OF_S1, OF_S2 = ({p: whose for p, whose in SIGNALS.items() if sx in p} for sx in _SX)
#: Likewise for positions of S2s
OF_POSITIONS = {"": "Main S2: ", "alt_s2_": "Alternative S2: "}

#: Position reconstruction algorithms: suffix of the fields, unit, description
ALGORITHMS = (
    ("cgr", "1", "share of the light among top channels"),
    ("corr", "mm", "polynomial of that share"),
)

_UNSET = "unless tight_coincidence_window is set"
_OF_HITS = ("first_channel", "last_channel", "min_diff", "max_diff")
_PEAKS = {
    "channel": "always -1, the sum of channels",
    "type": "always 0",
    "area_fraction_top": "always NaN",
    "data_top": "always 0",
    "data_start": "always 0",
    "tight_coincidence": f"0 {_UNSET}",
    "n_hits": f"0 for parts of split peaks {_UNSET}",
    "max_gap": f"-1 for parts of split peaks {_UNSET}",
    **dict.fromkeys(_OF_HITS, f"0, or -1 for parts of split peaks, {_UNSET}"),
}
_SPLIT_AT_MINIMA = {"max_goodness_of_split": "always 0, since peaks are split at local minima"}
_RECORDS = {"reduction_level": "always 0", "amplitude_bit_shift": "always 0"}
_NOT_INTEGRATED = {"left_integration": "always 0", "right_integration": "always 0"}
_HITS = _NOT_INTEGRATED | {"threshold": "always 15, which no option changes"}
_TIGHT = {"tight_coincidence": f"0 {_UNSET}"}
_ONE_DETECTOR = _TIGHT | {"area_fraction_top": "always 0"}
_SIPM = {"n_saturated_channels": "always 1 for positive pulses, unless correct_positive_polarity"}
_EVENTS = {
    **{f"{prefix}{sx}_tight_coincidence": f"0 {_UNSET}" for prefix in ("", "alt_") for sx in _SX},
    **{f"{prefix}s1_{name}": "always -1" for prefix in ("", "alt_") for name in _DIFFERENCES},
    **{f"{prefix}s2_{axis}": "always NaN" for prefix in ("", "alt_") for axis in "xy"},
}

#: Columns without information, always or by default: data type -> column -> content
EMPTY_COLUMNS: dict[str, dict[str, str]] = {
    "records": _RECORDS,
    "records_ext": _RECORDS,
    "records_sipm": _RECORDS,
    "radon_records": _RECORDS | {"reduction_level": "always 2, cut outside hits"},
    "hits": _HITS,
    "lone_hits": _HITS,
    "radon_hits": _NOT_INTEGRATED,
    "peaks": _PEAKS | _SPLIT_AT_MINIMA,
    "peaks_ext": _PEAKS | _SPLIT_AT_MINIMA,
    "peaks_sipm": _PEAKS | _SPLIT_AT_MINIMA | _SIPM,
    "radon_peaks": {name: text for name, text in _PEAKS.items() if name != "n_hits"},
    "peak_basics": _TIGHT,
    "peak_basics_ext": _ONE_DETECTOR,
    "peak_basics_sipm": _ONE_DETECTOR | _SIPM,
    "radon_peak_basics": {"type": "always 0"},
    "event_basics": _EVENTS,
    # Those of alternative S2s are filled from event_positions
    "event_info": {c: text for c, text in _EVENTS.items() if c not in ("alt_s2_x", "alt_s2_y")},
}


def rows_for(intervals: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Return rows of `dtype` with ``time`` and ``endtime`` of intervals, and zeros else."""
    result = np.zeros(len(intervals), dtype=dtype)
    result["time"] = intervals["time"]
    result["endtime"] = strax.endtime(intervals)
    return result


def dtype_of(
    fields: Mapping[str, tuple[str, DTypeLike]], of: Mapping[str, str] = immutabledict({"": ""})
) -> list:
    """Return a dtype with `fields` (name -> title, type) of each of `of`.

    `of` has beginnings of names, as ``s1_``, and of titles, as in `SIGNALS`.
    """
    entries = [
        (whose + title, prefix + name, dtype)
        for prefix, whose in of.items()
        for name, (title, dtype) in fields.items()
    ]
    return [((title[0].upper() + title[1:], name), dtype) for title, name, dtype in entries]


def check_numbers(
    plugin: CorrectedPlugin, kind: str, *names: str, above: float | None = None
) -> None:
    """Raise InvalidOption for options that are no finite numbers above a limit, or of 0 or more.

    `kind` names these numbers.
    """
    for name in names:
        value = getattr(plugin, name)
        good = isinstance(value, Real) and not isinstance(value, bool) and float(value) < np.inf
        if not good or not (float(value) >= 0 if above is None else float(value) > above):
            raise InvalidOption(f"{name}={value!r:.40}: give {kind}, in {plugin.origin(name)}")


def peak_basics_dtype(
    with_hits: bool = True, type_dtype: type = np.int16, data_type: str = "peak_basics"
) -> list:
    """Return the dtype of basic properties of peaks.

    `with_hits` adds n_hits and tight_coincidence; `type_dtype` is the type of the field ``type``;
    titles name the empty columns of `data_type`.
    """
    n_hits = [(("Number of hits at least partly inside the peak", "n_hits"), np.int32)]
    coincidence = [
        (("Channels with a hit near the peak's largest sample", "tight_coincidence"), np.int16)
    ]
    fields = [
        (("Start time of the peak since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time of the peak since unix epoch [ns]", "endtime"), np.int64),
        (("Mean time of the waveform since unix epoch [ns]", "center_time"), np.int64),
        (("Area [PE]", "area"), np.float32),
        *(n_hits if with_hits else []),
        (("Number of channels with a positive area", "n_channels"), np.int16),
        (("Channel with the largest area", "max_pmt"), np.int16),
        (("Area in that channel [PE]", "max_pmt_area"), np.float32),
        (("Number of channels that reach the end of the ADC", "n_saturated_channels"), np.int16),
        (("Width of the central 50% of the area [ns]", "range_50p_area"), np.float32),
        (("Width of the central 90% of the area [ns]", "range_90p_area"), np.float32),
        (("Fraction of the area that the top array saw [1]", "area_fraction_top"), np.float32),
        (("Length of the waveform [samples]", "length"), np.int32),
        (("Width of a sample [ns]", "dt"), np.int16),
        (("Time from 10% to 50% of the area [ns]", "rise_time"), np.float32),
        *(coincidence if with_hits else []),
        (("Kind of peak: 1 S1, 2 S2, 0 unknown", "type"), type_dtype),
    ]
    empty = EMPTY_COLUMNS[data_type]
    return [
        ((f"{title}; {empty[name]}" if name in empty else title, name), dtype)
        for (title, name), dtype in fields
    ]


class Hits(Plugin):
    """Intervals of records at least 15 ADC counts (fixed) above the baseline, sorted by time."""

    __version__ = "0.1.0"
    depends_on = ("records",)
    provides = "hits"
    data_kind = "hits"
    dtype = strax.hit_dtype
    parallel = "process"
    rechunk_on_save = False
    save_when = strax.SaveWhen.TARGET

    def compute(self, records):
        return kernels.find_hits(records, by_time=True)


class LoneHits(Plugin):
    """Hits that belong to no peak."""

    __version__ = "0.1.0"
    depends_on = ("hits", "peaks")
    input_fields = immutabledict(peaks=())
    provides = "lone_hits"
    data_kind = "lone_hits"
    dtype = strax.hit_dtype
    save_when = strax.SaveWhen.TARGET

    def compute(self, hits, peaks):
        return hits[kernels.in_no_peak(hits, peaks)]


def check_safe_break_for_peaks(plugin: strax.Plugin) -> None:
    """Check that no cut between two chunks can be within a peak and its extensions."""
    check_safe_break(
        plugin,
        peak_gap_threshold=plugin.peak_gap_threshold,
        peak_left_extension=live_data.safe_break_for(plugin.peak_left_extension),
        peak_right_extension=live_data.safe_break_for(plugin.peak_right_extension),
    )


@strax.takes_config(
    strax.Option("n_tpc_pmts", default=False, track=False, help="Number of channels of the TPC"),
)
class PeaksBase(CorrectedPlugin):
    """Base of the plugins that find peaks; a subclass sets records and number of channels."""

    gain_to_pe_array = XAMSConfig(default=None, help=GAINS_HELP)
    peak_gap_threshold = XAMSConfig(
        default=300, help="An interval this long without hits ends a peak [ns]"
    )
    peak_left_extension = XAMSConfig(
        default=10, help="Peaks begin this long before their first hit [ns]"
    )
    peak_right_extension = XAMSConfig(
        default=10, help="Peaks end this long after their last hit [ns]"
    )
    peak_min_area = XAMSConfig(default=10, help="Least area of the hits of a peak [PE]")
    peak_split_min_height = XAMSConfig(
        default=25,
        help="Split at a minimum only if the maxima beside it are this much higher [PE/sample]",
    )
    peak_split_min_ratio = XAMSConfig(
        default=4,
        help="Split at a minimum only if the maxima beside it are this many times higher [1]",
    )
    correct_positive_polarity = XAMSConfig(
        default=False,
        omit_default=True,
        help="Count a channel with positive pulses as saturated where it reaches the largest count "
        "of the ADC, 16383. By default all of its hits count as saturated. Also an option of "
        "records. In the lineage only where it is set",
    )
    tight_coincidence_window = XAMSConfig(default=None, omit_default=True, help=WINDOW_HELP)

    parallel = "process"
    caution = (
        "no gains (gain_to_pe_array), so areas are in ADC counts x samples, not PE: give a version "
        "of the corrections, config, or the run document (amstrax rundb add)"
    )

    def setup(self):
        super().setup()
        check_window(self)
        self.check_breaks()

    def check_breaks(self) -> None:
        """Raise InvalidOption if a cut between two chunks can be within a peak."""
        check_safe_break_for_peaks(self)

    @property
    def n_channels(self) -> int:
        """Length of arrays with an entry per channel."""
        return self.config["n_tpc_pmts"]

    @property
    def min_channels(self) -> int:
        """Least number of channels with hits in a peak."""
        return 1

    def infer_dtype(self):
        return self.peak_dtype()

    def peak_dtype(self) -> list:
        """Return the dtype of `find_peaks`."""
        return strax.peak_dtype(n_channels=self.n_channels)

    def find_hits(self, records: np.ndarray, links: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the hits in records, sorted by time; `links` are those of `record_links`."""
        return kernels.find_hits(records, by_time=True)

    def gains(self) -> np.ndarray:
        """Return the checked gains [PE per ADC count x sample]."""
        origin = self.origin("gain_to_pe_array")
        return kernels.gains(self.gain_to_pe_array, self.n_channels, origin)

    def find_peaks(self, records: np.ndarray, start: int, end: int) -> np.ndarray:
        """Return the peaks in records of a chunk [start, end)."""
        to_pe = self.gains()
        links = waveforms.record_links(records)
        hits = self.find_hits(records, links)
        dtype = np.dtype(self.peak_dtype())
        peaks = self.group_hits(hits, to_pe, dtype, self.peak_min_area, self.min_channels)
        kernels.clip_peaks(peaks, start, end)
        adc_max = ADC_MAX if self.correct_positive_polarity else 0
        waveforms.sum_waveform(peaks, hits, records, links, to_pe, adc_max)
        waveforms.set_widths(peaks)
        peaks = splitting.split_peaks(
            peaks, hits, records, links, to_pe, self.split_finder(), adc_max=adc_max
        )
        kernels.set_center_times(peaks)
        self.set_hit_features(peaks, hits)
        return peaks

    def group_hits(
        self,
        hits: np.ndarray,
        to_pe: np.ndarray,
        dtype: np.dtype,
        min_area: float,
        min_channels: int,
    ) -> np.ndarray:
        """Return peaks without waveforms around groups of hits, of a least area [PE]."""
        return kernels.find_peaks(
            hits,
            to_pe,
            dtype,
            gap_threshold=self.peak_gap_threshold,
            left_extension=self.peak_left_extension,
            right_extension=self.peak_right_extension,
            min_area=min_area,
            min_channels=min_channels,
        )

    def split_finder(self) -> Callable:
        """Return what finds the places at which peaks are split."""
        return splitting.local_minimum_splits(self.peak_split_min_height, self.peak_split_min_ratio)

    def has_coincidences(self) -> bool:
        """Return whether tight_coincidence is filled."""
        return self.tight_coincidence_window is not None

    def set_hit_features(self, peaks: np.ndarray, hits: np.ndarray) -> None:
        """Fill the properties of peaks that come from hits, where an option asks for them."""
        if self.tight_coincidence_window is not None:
            kernels.set_hit_features(peaks, hits, self.tight_coincidence_window)


def check_window(plugin: CorrectedPlugin) -> None:
    """Raise InvalidOption for an invalid value of tight_coincidence_window."""
    if plugin.tight_coincidence_window is not None:  # type: ignore[attr-defined]
        check_numbers(
            plugin, "a time of 0 or more [ns], as 50, or None", "tight_coincidence_window"
        )


class Peaks(PeaksBase):
    """Find peaks: groups of hits in the TPC's channels, with their sum waveform and widths.

    Peaks are split at deep local minima of the waveform. Hits are those of the data type hits, with
    a fixed threshold of 15 ADC counts.
    """

    peak_min_pmts = XAMSConfig(default=1, help="Least number of channels with hits in a peak")

    __version__ = "0.1.50"
    depends_on = ("records",)
    provides = "peaks"
    data_kind = "peaks"

    @property
    def min_channels(self):
        return self.peak_min_pmts

    def compute(self, records, start, end):
        return self.find_peaks(records, start, end)


@strax.takes_config(
    strax.Option("n_ext_pmts", default=1, help="Number of channels of the external detector"),
)
class PeaksEXT(PeaksBase):
    """Find peaks in the external detector, in the same way as in the TPC."""

    __version__ = "0.0.3"
    depends_on = ("records_ext",)
    provides = "peaks_ext"
    data_kind = "peaks_ext"

    @property
    def n_channels(self):
        return self.config["n_tpc_pmts"] + self.config["n_ext_pmts"]

    def compute(self, records_ext, start, end):
        return self.find_peaks(records_ext, start, end)


@strax.takes_config(
    strax.Option("n_sipms", default=1, help="Number of SiPM channels"),
)
class PeaksSiPM(PeaksEXT):
    """Find peaks in the SiPM, in the same way as in the TPC."""

    __version__ = "0.0.2"
    depends_on = ("records_sipm",)
    provides = "peaks_sipm"
    data_kind = "peaks_sipm"

    @property
    def n_channels(self):
        return super().n_channels + self.config["n_sipms"]

    def compute(self, records_sipm, start, end):
        return self.find_peaks(records_sipm, start, end)


def peak_basics(
    peaks: np.ndarray, dtype: DTypeLike, sum_area_rtol: float | None = None
) -> np.ndarray:
    """Return basic properties of peaks, without area_fraction_top and type (left at 0).

    With `sum_area_rtol`, areas per channel are checked by
    `amstrax.processing.peaks.check_sum_area`.
    """
    areas = peaks["area_per_channel"]
    if sum_area_rtol is not None:
        kernels.check_sum_area(peaks["time"], peaks["area"], areas, sum_area_rtol)
    result = rows_for(peaks, dtype)
    for field in ("area", "n_hits", "n_saturated_channels", "length", "dt", "tight_coincidence"):
        if field in (result.dtype.names or ()):
            result[field] = peaks[field]
    result["n_channels"] = (areas > 0).sum(axis=1)
    result["max_pmt"] = areas.argmax(axis=1)
    result["max_pmt_area"] = areas.max(axis=1)
    result["range_50p_area"] = peaks["width"][:, kernels.RANGE_50P]
    result["range_90p_area"] = peaks["width"][:, kernels.RANGE_90P]
    result["rise_time"] = -peaks["area_decile_from_midpoint"][:, kernels.DECILE_10P]
    result["center_time"] = kernels.center_times(peaks)
    return result


class PeakBasicsEXT(CorrectedPlugin):
    """Basic properties of peaks in the external detector; types are by width alone."""

    s1_min_width = XAMSConfig(default=10, help="S1s have a larger central 50% width [ns]")
    s1_max_width = XAMSConfig(default=225, help="S1s have a smaller central 50% width [ns]")
    s2_min_width = XAMSConfig(default=225, help="S2s have a larger central 50% width [ns]")

    __version__ = "2.1"
    depends_on = ("peaks_ext",)
    provides = "peak_basics_ext"
    data_kind = "peaks_ext"
    dtype = peak_basics_dtype(data_type="peak_basics_ext")
    parallel = "process"
    rechunk_on_save = False

    def compute(self, peaks_ext):
        return self.basics(peaks_ext)

    def basics(self, peaks: np.ndarray) -> np.ndarray:
        """Return basic properties of peaks."""
        result = peak_basics(peaks, self.dtype)
        width = result["range_50p_area"]
        result["type"] = kernels.classify(
            (width > self.s1_min_width) & (width < self.s1_max_width),
            width > self.s2_min_width,
        )
        return result


class PeakBasics(PeakBasicsEXT):
    """Basic properties of the TPC's peaks: times, area, widths, area fraction top, type."""

    channel_map = XAMSConfig(
        track=False,
        type=immutabledict,
        help=f"{CHANNEL_MAP_HELP}. Not used by peak_basics_sipm",
    )

    check_peak_sum_area_rtol = XAMSConfig(
        default=1e-4,
        help="Fail if channels do not add up to a peak's area within this fraction [1]; "
        f"None not to check. {_NOT_SIPM}",
    )
    s1_min_area = XAMSConfig(default=10, help=f"S1s have at least this area [PE]. {_NOT_SIPM}")
    s2_min_area = XAMSConfig(default=10, help=f"S2s have a larger area [PE]. {_NOT_SIPM}")
    s1_min_channels = XAMSConfig(
        default=5, help=f"S1s are seen by at least so many channels. {_NOT_SIPM}"
    )
    s2_min_channels = XAMSConfig(
        default=5, help=f"S2s are seen by at least so many channels. {_NOT_SIPM}"
    )
    s2_min_area_fraction_top = XAMSConfig(
        default=0,
        help=f"S2s have at least this fraction of their area in the top array [1]. {_NOT_SIPM}",
    )
    s1_max_area_fraction_top = XAMSConfig(
        default=0.2,
        help=f"S1s have at most this fraction of their area in the top array [1]. {_NOT_SIPM}",
    )

    depends_on = ("peaks",)
    provides = "peak_basics"
    data_kind = "peaks"
    dtype = peak_basics_dtype()

    def compute(self, peaks):
        result = peak_basics(peaks, self.dtype, self.check_peak_sum_area_rtol)
        aft = kernels.area_fraction_top(
            peaks["area_per_channel"], rundoc.channel_range(self.channel_map, "top")
        )
        result["area_fraction_top"] = aft
        area, width, n_channels = (result[f] for f in ("area", "range_50p_area", "n_channels"))
        result["type"] = kernels.classify(
            (area >= self.s1_min_area)
            & (width > self.s1_min_width)
            & (width < self.s1_max_width)
            & (aft <= self.s1_max_area_fraction_top)
            & (n_channels >= self.s1_min_channels),
            (area > self.s2_min_area)
            & (width > self.s2_min_width)
            & (aft >= self.s2_min_area_fraction_top)
            & (n_channels >= self.s2_min_channels),
        )
        return result


class PeakBasicsSiPM(PeakBasics):
    """Basic properties of peaks in the SiPM; types are by width alone."""

    depends_on = ("peaks_sipm",)
    provides = "peak_basics_sipm"
    data_kind = "peaks_sipm"
    dtype = peak_basics_dtype(data_type="peak_basics_sipm")

    def compute(self, peaks_sipm):
        return self.basics(peaks_sipm)


class PeakPositions(CorrectedPlugin):
    """Positions of peaks from the shares of light in the four top channels."""

    channel_map = XAMSConfig(track=False, type=immutabledict, help=CHANNEL_MAP_HELP)

    pos_rec_params = XAMSConfig(
        default=(
            (212.89988642, -320.95097295, 198.71830514, -46.03953999),
            (211.40051359, -319.83147964, 198.69552524, -46.23585688),
        ),
        help="Coefficients of the polynomials for x and y [mm], highest power first",
    )
    default_reconstruction_algorithm = XAMSConfig(
        default="corr", help="Algorithm of the fields x, y and r: corr or cgr"
    )

    __version__ = "1.2.26"
    depends_on = ("peaks", "peak_basics")
    input_fields = immutabledict(
        peaks=("area_per_channel",), peak_basics=("area", "area_fraction_top")
    )
    provides = "peak_positions"
    data_kind = "peaks"
    parallel = "process"
    rechunk_on_save = False

    def infer_dtype(self):
        kinds = [(f"_{suffix}", unit, text) for suffix, unit, text in ALGORITHMS]
        fields = [
            ((f"Reconstructed {axis}, {text} [{unit}]", axis + suffix), np.float32)
            for suffix, unit, text in (*kinds, ("", "mm", "default algorithm"))
            for axis in "xyr"
        ]
        return fields + strax.time_fields

    def compute(self, peaks):
        result = rows_for(peaks, self.dtype)
        positions = kernels.reconstruct_positions(
            peaks["area"],
            peaks["area_fraction_top"],
            peaks["area_per_channel"],
            rundoc.channel_range(self.channel_map, "top")[0],
            self.pos_rec_params,
        )
        for field, values in positions.items():
            result[field] = values
        for axis in "xyr":
            result[axis] = result[f"{axis}_{self.default_reconstruction_algorithm}"]
        return result


class CoincidencesBase(CorrectedPlugin):
    """Base of the plugins that find annihilation photons in the external detector."""

    max_delay = XAMSConfig(
        default=100, help="An external peak coincides if it starts at most this long after [ns]"
    )
    absorption_peak_delta = XAMSConfig(
        default=65, help="An external peak counts if its area is this near to 511 [keV]"
    )

    rechunk_on_save = False

    def infer_dtype(self):
        return strax.time_fields + [
            (("Whether an external 511 keV peak coincides", "is_coinc"), np.bool_)
        ]

    def coincidences(
        self, intervals: np.ndarray, times: np.ndarray, peaks_ext: np.ndarray
    ) -> np.ndarray:
        """Return a row for each interval, with a signal at the same row of `times`."""
        result = rows_for(intervals, self.dtype)
        candidates = peaks_ext[
            coincidences.absorption_peaks(peaks_ext["area"], self.absorption_peak_delta)
        ]
        result["is_coinc"] = coincidences.match_external(times, candidates["time"], self.max_delay)
        return result


class PeakCoincidences(CoincidencesBase):
    """Peaks in coincidence with an external 511 keV peak."""

    __version__ = "1.1-amstrax3"
    depends_on = ("peaks", "peaks_ext")
    input_fields = immutabledict(peaks=(), peaks_ext=("area",))
    provides = "peak_coincidences"
    data_kind = "peaks"

    def setup(self):
        super().setup()
        # The longest time from the start of an external peak to that of its record
        extension = getattr(self.deps["peaks_ext"], "peak_left_extension", 0)
        check_safe_break(self, max_delay=self.max_delay + extension)

    def compute(self, peaks, peaks_ext):
        return self.coincidences(peaks, peaks["time"], peaks_ext)


NO_DELAY = -1
#: Samples this long before and behind hits are integrated, as by reconstruction part hits [ns]
_MARGINS = 30, 60


class SingleElectrons(PeaksBase):
    """Find small peaks, candidates for single electrons, and their time after the last large one.

    A single electron gives light evenly over some 2 us. Peaks of the lab start at 10 PE and end at
    gaps of 300 ns, so that most single electrons fall to pieces there or are lost.

    Rows are peaks from se_min_area to below se_large_area, in time order. Hits further apart than
    se_gap_threshold are different peaks; chunks are cut in shorter gaps, so that each border of
    chunks may cut one peak in two.

    Baselines of pulses are medians over pulses before and after in their channel: photoelectrons of
    one electron are so close that many pulses begin with signal, which would cost 7 % of the area.
    """

    se_min_area = XAMSConfig(default=1.5, help="Least area of the hits of a small peak [PE]")
    se_large_area = XAMSConfig(
        default=200, help="Peaks of at least this area are large: they set electrons free [PE]"
    )
    se_gap_threshold = XAMSConfig(
        default=1500,
        help="An interval this long without hits ends a small peak [ns]; electrons give light for "
        "about 2000 ns",
    )

    se_hit_threshold = XAMSConfig(
        default=8,
        help="Hits of small peaks are samples of at least this [ADC counts above the baseline]; "
        "samples 30 ns before and 60 ns behind are integrated with them",
    )

    # Those of peaks have other values here
    takes_config: ClassVar = immutabledict(
        {
            name: option
            for name, option in PeaksBase.takes_config.items()
            if name not in ("peak_min_area", "peak_gap_threshold")
        }
    )
    __version__ = "0.1.0"
    depends_on = ("records",)
    provides = "single_electrons"
    data_kind = "single_electrons"
    save_when = strax.SaveWhen.TARGET

    @property
    def peak_min_area(self):
        """Least area of the hits of a peak [PE]."""
        return self.se_min_area

    @property
    def peak_gap_threshold(self):
        """An interval this long without hits ends a peak [ns]."""
        return self.se_gap_threshold

    def check_breaks(self):
        check_safe_break(
            self,
            se_hit_threshold=live_data.safe_break_for(max(_MARGINS)),
            peak_left_extension=live_data.safe_break_for(self.peak_left_extension),
            peak_right_extension=live_data.safe_break_for(self.peak_right_extension),
        )

    def infer_dtype(self):
        return [
            (("Area [PE]", "area"), np.float32),
            (("Number of channels with a positive area", "n_channels"), np.int16),
            (("Width of the central 50% of the area [ns]", "range_50p_area"), np.float32),
            (("Width of the central 90% of the area [ns]", "range_90p_area"), np.float32),
            (
                (
                    "Time since the end of the last large peak of the chunk, without one -1 [ns]",
                    "delay",
                ),
                np.int64,
            ),
            (("Area of that peak, without one 0 [PE]", "large_area"), np.float32),
            *strax.time_fields,
        ]

    def find_hits(self, records, links):
        hits = kernels.find_hits(records, self.se_hit_threshold)
        kernels.integrate_hits(hits, records, links, *_MARGINS, widen=True)
        return sort_by_time(hits)

    def compute(self, records, start, end):
        peaks = self.find_peaks(steady_baselines(records), start, end)
        is_large = peaks["area"] >= self.se_large_area
        large, small = peaks[is_large], peaks[~is_large]
        result = rows_for(small, self.dtype)
        result["area"] = small["area"]
        result["n_channels"] = (small["area_per_channel"] > 0).sum(axis=1)
        result["range_50p_area"] = small["width"][:, kernels.RANGE_50P]
        result["range_90p_area"] = small["width"][:, kernels.RANGE_90P]
        last = np.searchsorted(large["time"], small["time"], side="right") - 1
        has_large = last >= 0
        last = large[last[has_large]]
        result["delay"] = NO_DELAY
        result["delay"][has_large] = small["time"][has_large] - strax.endtime(last)
        result["large_area"][has_large] = last["area"]
        return result
