"""Correction of peaks for samples at the end of the ADC, and for the gain that PMT bases lose.

Areas are in PE. ``n`` is the number of peaks, ``c`` that of channels, ``r`` that of records.
"""

import numpy as np
import strax

from amstrax.processing.compiled import F64, I64, column, columns, kernel, output
from amstrax.processing.peaks import center_times
from amstrax.processing.waveforms import set_widths

#: Values of saturation_flag
UNSATURATED, CORRECTED, ALL_SATURATED, TOO_LITTLE_LIGHT = range(4)

#: Fields that S1s and S2s of events have too: name -> title, type
FIELDS: dict[str, tuple[str, type]] = {
    "n_saturated_samples": ("Samples at the end of the ADC, of all channels [samples]", np.int32),
    "saturation_flag": (
        "Samples at the end of the ADC: 0 none, 1 corrected; not corrected: 2 in all channels, "
        "3 too little other light",
        np.int8,
    ),
    "saturation_correction": ("Area added for the end of the ADC [PE]", np.float32),
    "saturation_correction_error": ("Standard deviation of saturation_correction [PE]", np.float32),
    "base_correction": ("Area added for the gain that PMT bases lost in the peak [PE]", np.float32),
}


def fields(n_channels: int) -> list:
    """Return the fields that `correct_saturation` fills, for `n_channels` channels."""
    title = "Samples at the end of the ADC, by channel [samples]"
    return [
        ((title, "saturated_samples"), np.int32, (n_channels,)),
        *(((title, name), dtype) for name, (title, dtype) in FIELDS.items()),
    ]


_Peaks = columns(
    __name__,
    "_Peaks",
    strax.peak_dtype() + fields(100),
    output,
    "time length dt area area_per_channel data saturated_samples " + " ".join(FIELDS),
)
_Records = columns(
    __name__, "_Records", strax.record_dtype(), column, "time length channel baseline data"
)

#: Passes in which scale and lost gain of a clipped channel are found; each changes them less, by
#: about the lost share of the gain
_PASSES = 6


def correct_saturation(
    peaks: np.ndarray,
    records: np.ndarray,
    to_pe: np.ndarray,
    fano: float,
    max_error: float,
    base_charge: float = np.inf,
    adc_max: int = 0,
) -> None:
    """Correct, in place, saturated peaks with the waveform of their unsaturated channels.

    The light of a channel from its first to its last clipped sample, S, is that of the channels
    without clipped samples, R, scaled to it in the samples before and behind::

        M = k R(S),   k = A(not S) / R(not S)

    Samples within S that are not clipped are replaced too: only low ones are not.

    The variance of M is, with fano F, its own fluctuation, that of the three sums, and that of the
    shape, where k before the clipped samples differs from k behind them by more than by chance::

        var M = F M + M^2 (F/A(not S) + F/R(not S) + F/R(S) + max(0, (d^2 - var d) / 4) / k^2)

    Errors from R are common to the channels of a peak, and added linearly.

    The base of a PMT that has lost the charge Q since the start of the peak has the gain
    1 / (1 + Q / `base_charge`), as in `amstrax.simulation.sensors.base_gain`, without recovery.

    Waveform, areas, widths and centre of corrected peaks change; of others only the fields that
    say why not. All saturated channels of a peak are corrected, or none.

    Parameters
    ----------
    peaks, records
        `strax.peak_dtype` and `fields`, with waveforms, shape (n,), and their records, sorted by
        time, shape (r,). Those of other channels are ignored.
    to_pe
        PE per ADC count x sample of each channel; those of 0 are left out.
    fano, max_error
        Variance of an area over its mean [PE], and largest standard deviation of M, without its own
        fluctuation, over M [1].
    base_charge
        Charge at which the gain is halved [PE]; infinite for no correction.
    adc_max
        See `amstrax.processing.waveforms.sum_waveform`.
    """
    # A base that has lost less than a thousandth of its gain is not worth the time
    concerned = peaks["n_saturated_channels"] > 0
    if np.isfinite(base_charge):
        concerned |= peaks["area_per_channel"].max(axis=1) > 2e-3 * base_charge
    which = np.flatnonzero(concerned)
    if not len(which) or not len(records):
        return
    some = peaks[which]
    _correct(
        _Peaks.of(some),
        _Records.of(records),
        np.asarray(to_pe, dtype=np.float64),
        int(records["dt"][0]),
        float(fano),
        float(max_error),
        float(base_charge),
        int(adc_max),
    )
    has_changed = (some["saturation_flag"] == CORRECTED) | (some["base_correction"] != 0)
    changed = some[has_changed]
    set_widths(changed)
    changed["center_time"] = center_times(changed)
    some[has_changed] = changed
    peaks[which] = some


@kernel(_Peaks, _Records, column(F64), I64, F64, F64, F64, I64)
def _correct(peaks, records, to_pe, dt, fano, max_error, base_charge, adc_max):
    n_channels = peaks.area_per_channel.shape[1]
    n_record_samples = records.data.shape[1]
    longest = np.int64(0)
    for p in range(len(peaks.time)):
        longest = max(longest, np.int64(peaks.length[p]) * (peaks.dt[p] // dt))
    # As measured, and light without end of the ADC and loss of gain
    wave = np.empty((n_channels, longest))
    light = np.empty((n_channels, longest))
    clipped = np.empty((n_channels, longest), dtype=np.bool_)
    others = np.empty(longest)
    for p in range(len(peaks.time)):
        factor = peaks.dt[p] // dt
        n = np.int64(peaks.length[p]) * factor
        wave[:, :n] = 0
        clipped[:, :n] = False
        others[:n] = 0
        peak_start = peaks.time[p] // dt
        # Bisection: records are wide, and few belong to saturated peaks
        first = np.searchsorted(records.time, (peak_start - n_record_samples + 1) * dt)
        for r in range(first, len(records.time)):
            offset = records.time[r] // dt - peak_start
            if offset >= n:
                break
            c = records.channel[r]
            if not 0 <= c < n_channels:
                continue
            length = min(np.int64(records.length[r]), n_record_samples)
            baseline = np.float64(records.baseline[r])
            limit = np.int64(np.int16(baseline))
            if adc_max > 0 and baseline < 0:
                limit = np.int64(np.floor(baseline)) + adc_max
            fraction = baseline - np.floor(baseline)
            for j in range(max(np.int64(0), -offset), min(length, n - offset)):
                x = records.data[r, j]
                wave[c, offset + j] = (x + fraction) * to_pe[c]
                clipped[c, offset + j] = x >= limit

        n_clipped, n_others = 0, 0
        for c in range(n_channels):
            count = 0
            for i in range(n):
                count += clipped[c, i]
            peaks.saturated_samples[p, c] = count
            n_clipped += count
            if count > 0 or to_pe[c] == 0:
                continue
            n_others += 1
            lost = 0.0
            for i in range(n):
                light[c, i] = wave[c, i] * (1 + lost / base_charge)
                lost += wave[c, i]
                others[i] += light[c, i]
        peaks.n_saturated_samples[p] = n_clipped
        flag = UNSATURATED
        if n_clipped > 0:
            flag = CORRECTED if n_others > 0 else ALL_SATURATED
        if flag == ALL_SATURATED:
            peaks.saturation_flag[p] = flag
            continue

        own_variance, common_error, added, added_for_base = 0.0, 0.0, 0.0, 0.0
        for c in range(n_channels):
            if peaks.saturated_samples[p, c] == 0 or to_pe[c] == 0:
                continue
            begin, end = np.int64(0), n
            while not clipped[c, begin]:
                begin += 1
            while not clipped[c, end - 1]:
                end -= 1
            scale = 0.0
            for k in range(_PASSES):
                # Sums of this channel and of the others: before, in and behind the range
                own, other = np.zeros(3), np.zeros(3)
                lost, extra = 0.0, 0.0
                for i in range(n):
                    loss = 1 + lost / base_charge
                    measured = wave[c, i]
                    part = 0 if i < begin else 1 if i < end else 2
                    if part == 1 and k > 0:
                        measured = scale * others[i] / loss
                        extra += measured - wave[c, i]
                    light[c, i] = measured * loss
                    lost += measured
                    own[part] += light[c, i]
                    other[part] += others[i]
                scaled, by = own[0] + own[2], other[0] + other[2]
                if scaled <= 0 or by <= 0 or other[1] <= 0:
                    flag = TOO_LITTLE_LIGHT
                    break
                scale = scaled / by
            if flag == TOO_LITTLE_LIGHT:
                break
            shape = 0.0
            if min(own[0], own[2], other[0], other[2]) > 0:
                before, behind = own[0] / other[0], own[2] / other[2]
                by_chance = before**2 * fano * (1 / own[0] + 1 / other[0])
                by_chance += behind**2 * fano * (1 / own[2] + 1 / other[2])
                shape = max(0.0, ((before - behind) ** 2 - by_chance) / 4) / scale**2
            from_own, from_others = fano / scaled + shape, fano / by + fano / other[1]
            if from_own + from_others > max_error**2:
                flag = TOO_LITTLE_LIGHT
                break
            own_variance += fano * own[1] + own[1] ** 2 * from_own
            common_error += own[1] * np.sqrt(from_others)
            added += extra
        peaks.saturation_flag[p] = flag
        if flag == TOO_LITTLE_LIGHT:
            continue

        for c in range(n_channels):
            if to_pe[c] == 0:
                continue
            more = 0.0
            for i in range(n):
                extra = light[c, i] - wave[c, i]
                more += extra
                peaks.data[p, i // factor] += extra
            peaks.area_per_channel[p, c] += more
            added_for_base += more
        peaks.area[p] += added_for_base
        added_for_base -= added
        peaks.saturation_correction[p] = added
        peaks.saturation_correction_error[p] = np.sqrt(own_variance + common_error**2)
        peaks.base_correction[p] = added_for_base
