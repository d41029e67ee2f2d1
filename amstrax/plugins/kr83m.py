"""Kr-83m: the two S1s and S2s of a decay in each event."""

import numpy as np
from immutabledict import immutabledict

from amstrax.calibration import kr83m
from amstrax.calibration.kr83m import Quality
from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import InvalidOption
from amstrax.plugins.peak_processing import rows_for
from amstrax.processing import events as kernels
from amstrax.processing.peaks import S2

__all__ = ["EventKr83m"]

#: Waveforms begin so long before the largest S1, where the first S1 may be [samples]
_LEAD = 20


def _dtype() -> list:
    fields = [
        (("Start time of the event since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time of the event since unix epoch [ns]", "endtime"), np.int64),
        (("Quality: 0 one S1, 1 doubtful, 2 both in one peak, 3 in two", "kr_quality"), np.int8),
        (("Start of the first S1 since unix epoch, unknown: -1 [ns]", "s1_a_time"), np.int64),
        (("Time from the first to the second S1 [ns]", "s1_delay"), np.float32),
        (("Area of the first S1, 32.1 keV [PE]", "s1_a_area"), np.float32),
        (("Area of the second S1, 9.4 keV [PE]", "s1_b_area"), np.float32),
        (("Log-likelihood of two S1s less that of one [1]", "s1_gain"), np.float32),
        (("Number of peaks that the S1s are in", "s1_n_peaks"), np.int16),
    ]
    unless = "NaN unless it is a peak of its own"
    return fields + [
        (("Time from the main S2 to the S2 of 9.4 keV [ns], " + unless, "s2_delay"), np.float32),
        (("Area of the S2 of 32.1 keV [PE], " + unless, "s2_a_area"), np.float32),
        (("Area of the S2 of 9.4 keV [PE], " + unless, "s2_b_area"), np.float32),
    ]


class EventKr83m(CorrectedPlugin):
    """The two S1s of Kr-83m in each event, also where both are in one peak, and the S2s.

    Two S1s are fitted to the waveform of the peaks that begin before the main S2, are within the
    longest delay of the largest one, and are no S2 or rise fast. So an S1 may be typed unknown or
    S2, and split or not. The S2 of 9.4 keV is the largest S2 that follows the main S2 by the delay
    of the S1s. Fields are NaN where nothing is found.
    """

    kr83m_max_delay = XAMSConfig(default=2000, help="Longest delay of the second S1 [ns]")
    kr83m_min_delay = XAMSConfig(default=30, help="Shortest delay of the second S1 [ns]")
    kr83m_decay_time = XAMSConfig(
        default=27.0, help="Decay time of the light of an S1 in the fit [ns]"
    )
    kr83m_spread = XAMSConfig(
        default=9.0,
        help="Standard deviation by which PMTs and digitizer smear light in the fit [ns]",
    )
    kr83m_min_gain = XAMSConfig(
        default=10.0,
        help="Two S1s are good only if their log-likelihood exceeds that of one by so much [1]",
    )
    kr83m_min_area = XAMSConfig(default=15.0, help="Both S1s are good from this area on [PE]")
    kr83m_max_area = XAMSConfig(
        default=700.0, help="Two S1s are good up to this sum of their areas [PE]"
    )
    kr83m_area_ratio = XAMSConfig(
        default=(0.15, 1.5),
        type=(tuple, list),
        help="Two S1s are good if the area of the second over that of the first is within [1]",
    )
    kr83m_max_rise_time = XAMSConfig(
        default=200.0,
        help="Peaks that rise faster, from 10 % to 50 % of their area, count as S1s even if they "
        "are typed S2 [ns]",
    )
    kr83m_s2_tolerance = XAMSConfig(
        default=300.0, help="Delays of the S2s and of the S1s agree within this [ns]"
    )

    __version__ = "1.0.0-amstrax3"
    depends_on = ("event_basics", "peaks", "peak_basics")
    input_fields = immutabledict(
        event_basics=("s2_time", "s2_center_time", "s2_area"),
        peaks=("data", "length", "dt"),
        peak_basics=("area", "type", "center_time", "rise_time"),
    )
    provides = "event_kr83m"
    data_kind = "events"
    parallel = "process"
    dtype = _dtype()

    def setup(self):
        super().setup()
        if not 0 < self.kr83m_min_delay < self.kr83m_max_delay <= 10_000:
            raise InvalidOption(
                f"kr83m_min_delay={self.kr83m_min_delay!r}, kr83m_max_delay="
                f"{self.kr83m_max_delay!r}: give 0 < kr83m_min_delay < kr83m_max_delay <= 10000 ns"
            )
        for name in ("kr83m_decay_time", "kr83m_spread"):
            if not 1 <= getattr(self, name) <= 1000:
                raise InvalidOption(f"{name}={getattr(self, name)!r}: give 1 to 1000 ns")

    def compute(self, events, peaks):
        result = rows_for(events, self.dtype)
        for name in ("s1_delay", "s1_a_area", "s1_b_area", "s1_gain"):
            result[name] = np.nan
        result["s1_a_time"] = -1
        inside, first = kernels.contained_peaks(peaks, events)
        peaks, event = peaks[inside], np.repeat(np.arange(len(events)), np.diff(first))
        is_s1 = self.peaks_of_s1(events, peaks, event)
        n_samples = int(self.kr83m_max_delay) // kr83m.SAMPLE + 2 * _LEAD
        start = np.full(len(events), -1)
        # Peaks are sorted by time, so the first of an event is written last
        start[event[is_s1][::-1]] = peaks["time"][is_s1][::-1] - _LEAD * kr83m.SAMPLE
        result["s1_n_peaks"] = np.bincount(event[is_s1], minlength=len(events))
        lit = np.flatnonzero(start >= 0)
        row = np.searchsorted(lit, event[is_s1])
        waveforms = kr83m.join_waveforms(peaks[is_s1], row, start[lit], n_samples)
        pairs = kr83m.fit_pairs(
            waveforms, self.kr83m_decay_time, self.kr83m_spread, self.kr83m_min_delay
        )
        for name, values in (
            *(("s1_delay", pairs.delay), ("s1_a_area", pairs.first)),
            *(("s1_b_area", pairs.second), ("s1_gain", pairs.gain)),
        ):
            result[name][lit] = values
        found = np.isfinite(pairs.start)
        begin = pairs.start[found].round().astype(np.int64)
        result["s1_a_time"][lit[found]] = start[lit[found]] + begin
        result["kr_quality"] = self.quality(result, peaks[is_s1], event[is_s1])
        self.set_s2s(result, events, peaks, event)
        return result

    def peaks_of_s1(self, events: np.ndarray, peaks: np.ndarray, event: np.ndarray) -> np.ndarray:
        """Return which peaks hold the S1s of their event, shape (n,)."""
        is_fast = (peaks["type"] != S2) | (peaks["rise_time"] < self.kr83m_max_rise_time)
        candidate = np.flatnonzero(is_fast & (peaks["time"] < events["s2_time"][event]))
        order = candidate[np.argsort(peaks["area"][candidate], kind="stable")]
        largest = np.zeros(len(events), dtype=np.int64)
        largest[event[order]] = order
        result = np.zeros(len(peaks), dtype=np.bool_)
        delay = peaks["time"][candidate] - peaks["time"][largest[event[candidate]]]
        result[candidate] = np.abs(delay) <= self.kr83m_max_delay
        return result

    def quality(self, result: np.ndarray, peaks: np.ndarray, event: np.ndarray) -> np.ndarray:
        """Return the quality of each event; `peaks` are those of S1s, in events `event`."""
        lowest, highest = self.kr83m_area_ratio
        first, second = result["s1_a_area"], result["s1_b_area"]
        good = (
            (result["s1_gain"] >= self.kr83m_min_gain)
            & (np.minimum(first, second) >= self.kr83m_min_area)
            & (first + second <= self.kr83m_max_area)
            & (second >= lowest * first)
            & (second <= highest * first)
            & (result["s1_delay"] <= self.kr83m_max_delay)
        )
        # Both S1s are in one peak if none begins between them
        begins = peaks["time"] - result["s1_a_time"][event]
        between = (begins > kr83m.SAMPLE) & (begins <= result["s1_delay"][event] + kr83m.SAMPLE)
        is_separate = np.bincount(event[between], minlength=len(result)) > 0
        return np.select(
            [good & is_separate, good, result["s1_gain"] > 0],
            [Quality.SEPARATE, Quality.MERGED, Quality.DOUBTFUL],
            Quality.NONE,
        )

    def set_s2s(
        self, result: np.ndarray, events: np.ndarray, peaks: np.ndarray, event: np.ndarray
    ) -> None:
        """Fill the fields of the S2s."""
        for name in ("s2_delay", "s2_a_area", "s2_b_area"):
            result[name] = np.nan
        delay = peaks["center_time"] - events["s2_center_time"][event]
        candidate = np.flatnonzero(
            (peaks["type"] == S2)
            & (peaks["time"] > events["s2_time"][event])
            & (result["kr_quality"][event] >= Quality.MERGED)
            & (np.abs(delay - result["s1_delay"][event]) <= self.kr83m_s2_tolerance)
        )
        candidate = candidate[np.argsort(peaks["area"][candidate], kind="stable")]
        of_event = event[candidate]
        result["s2_delay"][of_event] = delay[candidate]
        result["s2_a_area"][of_event] = events["s2_area"][of_event]
        result["s2_b_area"][of_event] = peaks["area"][candidate]
