"""Gains of photosensors from LED runs: the mean area of a photoelectron, in two ways.

`mean_gain` assumes no spectrum: R. Saldanha et al., JINST 12 (2017) P09009 (arXiv:1602.03150).
`fit_gain` fits one. Areas are in ADC counts x samples; the option ``gain_to_pe_array`` is in
photoelectrons per ADC count x sample: 1 / gain.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amstrax.calibration import photoelectron_spectrum as spectrum
from amstrax.calibration.result import Number, minuit
from amstrax.exceptions import NoGain

if TYPE_CHECKING:
    from iminuit import Minuit

#: Least number of pulses, and of photoelectrons in them
_FEWEST_PULSES, _FEWEST_PHOTOELECTRONS = 1000, 100
#: Threshold of `mean_gain` in standard deviations of a sample's noise: 30 samples of white noise
#: reach it in 1 pulse of 10,000
_THRESHOLD = 4.5
#: Quantile of amplitudes from which the noise is estimated, whatever those above it are
_QUANTILE = 0.95
_MOST_OCCUPANCY = 3.0
#: Mean of small photoelectrons / peak of full-size ones: assumed, and its possible range. Noise
#: hides the smallest from a fit.
_SMALL_SIZE, _SMALL_SIZES = 0.3, (0.2, 0.45)
#: Bins of `fit_gain` in a standard deviation of the noise, and their largest number
_BINS_PER_NOISE, _MOST_BINS = 2.5, 1000
#: Bins with fewer expected areas are joined for the chi-square
_FEWEST_EXPECTED = 10


class Gain(NamedTuple):
    """A gain with its errors, and other results for the same pulses."""

    gain: Number  # mean area of a photoelectron, with its statistical error [ADC counts x samples]
    systematic: float  # systematic error of the method [ADC counts x samples]
    occupancy: Number  # mean number of photoelectrons in a flash
    spread: float  # standard deviation / mean of the area of a photoelectron
    pedestal: float  # mean area without light [ADC counts x samples]
    noise: float  # standard deviation of it
    n_pulses: int
    chi2: float = np.nan  # of a fit
    n_free: int = 0  # degrees of freedom of it
    p_value: float = np.nan
    shape: spectrum.Shape | None = None  # that was fitted

    @property
    def to_pe(self) -> Number:
        """Photoelectrons per ADC count x sample, as in ``gain_to_pe_array``, and its error."""
        return Number(1 / self.gain.value, self.error / self.gain.value**2)

    @property
    def error(self) -> float:
        """Standard error of the gain, statistical and systematic."""
        return float(np.hypot(self.gain.error, self.systematic))


def mean_gain(
    pulses: np.ndarray,
    led_window: tuple[int, int] = (80, 110),
    noise_window: tuple[int, int] = (0, 10),
    off: np.ndarray | None = None,
) -> Gain:
    """Return the gain from means, without a shape for the spectrum.

    With A the area, and o the mean number of photoelectrons in a flash, the gain is (mean A with
    light - mean A without) / o, and o = -ln(share of pulses without photoelectrons). That is the
    share of amplitudes below a threshold, divided by the same share without light: in an LED-off
    run, or in the noise window of the pulses, to the power of the ratio of the windows' lengths.
    The mean area without light is that of the LED-off run, or of the pulses below the threshold.

    The share of photoelectrons below the threshold is assumed to be that between the threshold and
    twice the threshold; half of this correction is the systematic error.

    Raises NoGain (a ValueError) for too few pulses, too little light, or too much.

    Parameters
    ----------
    pulses
        As of led_calibration, of one channel, shape (n,).
    led_window, noise_window
        Options of led_calibration that the pulses were made with [samples].
    off
        As `pulses`, of a run with the LED off; None: take the noise window.
    """
    pulses = _usable(pulses)
    n_led, n_noise = np.diff(led_window)[0], np.diff(noise_window)[0]
    if off is None:
        light = _occupancy(pulses["amplitude_led"], pulses["amplitude_noise"], n_led, n_noise)
    else:
        off = _usable(off)
        light = _occupancy(pulses["amplitude_led"], off["amplitude_led"], n_led, n_led)
    area, below = pulses["area"].astype(np.float64), light.below
    pedestal, noise = area[below].mean(), area[below].std()
    if off is None:
        dark_area, dark_spread = pedestal, noise
        by_area = area - area.mean() - below * (area - pedestal) / below.mean()
        by_dark_area = np.zeros(len(pulses))
    else:
        off_area = off["area"].astype(np.float64)
        dark_area, dark_spread = off_area.mean(), off_area.std()
        by_area, by_dark_area = area - area.mean(), dark_area - off_area
    gain = (area.mean() - dark_area) / light.value
    if gain <= 0:
        raise NoGain(_DOWN)
    error = _error(
        (by_area - gain * light.by_pulse) / light.value,
        (by_dark_area - gain * light.by_reference) / light.value,
        off is None,
    )
    between = area.var() - dark_spread**2 - light.value * gain**2
    return Gain(
        Number(float(gain), error),
        float(gain * light.missed / 2),
        Number(light.value, _error(light.by_pulse, light.by_reference, off is None)),
        float(np.sqrt(max(between / light.value, 0)) / gain),
        float(pedestal),
        float(noise),
        len(pulses),
    )


class _Occupancy(NamedTuple):
    """Mean number of photoelectrons in a flash, and the influence of each pulse on it."""

    value: float
    missed: float  # share of photoelectrons below the threshold
    below: np.ndarray  # whether pulses are below the threshold
    by_pulse: np.ndarray  # to first order
    by_reference: np.ndarray


def _occupancy(
    amplitude: np.ndarray, reference: np.ndarray, n_samples: int, n_reference: int
) -> _Occupancy:
    """Return the occupancy from amplitudes with and without light, in windows of so many samples.

    Raises NoGain for no noise, too little light, or too much.
    """
    from scipy.special import ndtri

    # Standard deviation of white noise with this quantile of its largest of n samples
    noise = np.quantile(reference, _QUANTILE) / ndtri(_QUANTILE ** (1 / n_reference))
    threshold = _THRESHOLD * float(noise)
    if threshold <= 0:
        raise NoGain(_NO_NOISE)
    ratio = n_samples / n_reference
    below, below_without = amplitude < threshold, reference < threshold
    share, dark = below.mean(), below_without.mean()
    if not 0 < share < 1:
        raise NoGain(_TOO_BRIGHT if share == 0 else _TOO_DARK)
    found = ratio * np.log(dark) - np.log(share)
    n_found = found * len(amplitude)
    if found > _MOST_OCCUPANCY:
        raise NoGain(_TOO_BRIGHT)
    if n_found < _FEWEST_PHOTOELECTRONS:
        raise NoGain(
            f"{max(n_found, 0):.0f} photoelectrons in {len(amplitude)} pulses are too few: "
            f"take a longer run, or more light, for {_FEWEST_PHOTOELECTRONS} or more"
        )
    missed = _missed(amplitude, reference, ratio, threshold, found)
    return _Occupancy(
        float(found / (1 - missed)),
        missed,
        below,
        -(below - share) / share / (1 - missed),
        ratio * (below_without - dark) / dark / (1 - missed),
    )


def _error(by_pulse: np.ndarray, by_reference: np.ndarray, paired: bool) -> float:
    """Return the standard error of a mean; `paired` where both are of the same pulses."""
    if paired:
        return float((by_pulse + by_reference).std() / np.sqrt(len(by_pulse)))
    variance = by_pulse.var() / len(by_pulse) + by_reference.var() / len(by_reference)
    return float(np.sqrt(variance))


def _missed(
    amplitude: np.ndarray, reference: np.ndarray, ratio: float, threshold: float, occupancy: float
) -> float:
    """Return the share of photoelectrons below the threshold, assumed to be that just above it."""

    def between(values: np.ndarray, power: float) -> float:
        return (values < 2 * threshold).mean() ** power - (values < threshold).mean() ** power

    dark = np.exp(-occupancy)
    light = between(amplitude, 1.0) - dark * between(reference, ratio)
    return float(np.clip(light / (occupancy * dark), 0, 0.5))


def fit_gain(pulses: np.ndarray, start: Gain | None = None) -> Gain:
    """Return the gain from a fit to the spectrum of areas.

    The spectrum (`amstrax.calibration.photoelectron_spectrum`) is fitted by a binned maximum
    likelihood, and judged by Pearson's chi-square, in bins with 10 expected areas or more.

    The spectrum does not tell how many small photoelectrons hide in the noise. So the fit assumes a
    mean size for them; half the difference of the gains for a small and a large one is the
    systematic error.

    Raises NoGain (a ValueError) for too few pulses, too little light, too much, or a spectrum of
    another shape, where no minimum is found.

    Parameters
    ----------
    pulses
        As of led_calibration, of one channel, shape (n,).
    start
        Start values; None: those of `mean_gain`.
    """
    pulses = _usable(pulses)
    start = mean_gain(pulses) if start is None else start
    edges = area_bins(pulses["area"], start)
    counts = np.histogram(pulses["area"], edges)[0]
    fit = _minimise(edges, counts, start)
    shape, errors = spectrum.Shape(*fit.values), spectrum.Shape(*fit.errors)
    gains = []
    for size in _SMALL_SIZES:
        fit.values["small_size"] = size
        fit.migrad()
        gains.append(fit.values["gain"])
    chi2, n_free = _chi2(counts, spectrum.bin_shares(edges, shape), fit.nfit)
    from scipy.stats import chi2 as chi2_distribution

    return Gain(
        Number(shape.gain, float(errors.gain)),
        abs(gains[1] - gains[0]) / 2,
        Number(shape.occupancy, float(errors.occupancy)),
        spectrum.relative_spread(shape),
        shape.pedestal,
        shape.noise,
        int(counts.sum()),
        chi2,
        n_free,
        float(chi2_distribution.sf(chi2, n_free)) if n_free > 0 else np.nan,
        shape,
    )


def area_bins(area: np.ndarray, start: Gain) -> np.ndarray:
    """Return edges of bins for nearly all areas, from below the pedestal on."""
    low = start.pedestal - 5 * start.noise
    occupancy = start.occupancy.value
    high = start.pedestal + start.gain.value * (3 + occupancy + 5 * np.sqrt(occupancy))
    high = min(high, float(area.max()) + start.noise)
    n_bins = int(np.ceil((high - low) / start.noise * _BINS_PER_NOISE))
    return np.linspace(low, high, min(max(n_bins, 20), _MOST_BINS) + 1)


def _minimise(edges: np.ndarray, counts: np.ndarray, start: Gain) -> "Minuit":
    from scipy.special import xlogy

    n_areas = counts.sum()

    def minus_two_log_likelihood(*values: float) -> float:
        shares = spectrum.bin_shares(edges, spectrum.Shape(*values))
        shares = np.maximum(shares / shares.sum(), 1e-12 / n_areas)
        # Relative to that of a perfect fit: S. Baker and R. Cousins, NIM 221 (1984) 437
        return 2 * float(np.sum(xlogy(counts, counts / (n_areas * shares))))

    gain, occupancy, noise = start.gain.value, start.occupancy.value, start.noise
    first = spectrum.Shape(occupancy, gain, 0.4, 0.05, _SMALL_SIZE, start.pedestal, noise)
    limits = {
        "occupancy": (0.2 * occupancy, 5 * occupancy),
        "gain": (0.2 * gain, 5 * gain),
        "spread": (0.05, 1.5),
        "small": (0.0, 0.5),
        "pedestal": (start.pedestal - 3 * noise, start.pedestal + 3 * noise),
        "noise": (0.3 * noise, 3 * noise),
    }
    fit = minuit(minus_two_log_likelihood, first._asdict(), limits, fixed="small_size")
    fit.migrad()
    fit.hesse()
    if not fit.valid:
        raise NoGain(
            "the fit found no minimum: the spectrum has another shape than that of photoelectrons "
            "with noise; look at its plot, and take the mean"
        )
    return fit


def _chi2(counts: np.ndarray, shares: np.ndarray, n_parameters: int) -> tuple[float, int]:
    """Return Pearson's chi-square and degrees of freedom; bins with few areas are joined."""
    expected = shares / shares.sum() * counts.sum()
    group = np.floor(np.cumsum(expected) / _FEWEST_EXPECTED).astype(int)
    expected = np.bincount(group, expected)
    counts = np.bincount(group, counts)
    kept = expected > _FEWEST_EXPECTED / 2
    chi2 = np.sum((counts[kept] - expected[kept]) ** 2 / expected[kept])
    return float(chi2), int(kept.sum()) - 1 - n_parameters


_TOO_DARK = "no light in led_window: was the LED on, and is led_window at the time of its light?"
_NO_NOISE = (
    "amplitude_noise is not above 0: is noise_window within the data of the pulses? Otherwise take "
    "a run with the LED off"
)
_DOWN = (
    "areas are smaller with light than without: do pulses go up in this channel, or is led_window "
    "on the far side of the light?"
)
_TOO_BRIGHT = (
    f"nearly every pulse has light: take a run with fewer than {_MOST_OCCUPANCY:g} photoelectrons "
    "in a flash, best 0.05 to 0.5"
)


def _usable(pulses: np.ndarray) -> np.ndarray:
    """Return the pulses without missing values; raises NoGain for too few."""
    fields = ("area", "amplitude_led", "amplitude_noise")
    pulses = pulses[np.all([np.isfinite(pulses[field]) for field in fields], axis=0)]
    if len(pulses) < _FEWEST_PULSES:
        raise NoGain(f"{len(pulses)} pulses are too few: take {_FEWEST_PULSES} or more")
    return pulses


def channel_gains(
    pulses: np.ndarray,
    led_window: tuple[int, int] = (80, 110),
    noise_window: tuple[int, int] = (0, 10),
    off: np.ndarray | None = None,
) -> dict[int, dict[str, Gain | NoGain]]:
    """Return gains: channel -> ``mean`` and ``fit`` -> gain, or the reason for none.

    Parameters are those of `mean_gain`, with pulses of all channels.
    """
    result: dict[int, dict[str, Gain | NoGain]] = {}
    for channel in np.unique(pulses["channel"]):
        own = pulses[pulses["channel"] == channel]
        own_off = None if off is None else off[off["channel"] == channel]
        gains = result[int(channel)] = {}
        try:
            gains["mean"] = first = mean_gain(own, led_window, noise_window, own_off)
            gains["fit"] = fit_gain(own, first)
        except NoGain as error:
            gains.setdefault("mean", error)
            gains["fit"] = error
    return result
