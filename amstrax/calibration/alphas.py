"""Alpha lines of the radon chain in S1s of XAMSL: positions, widths, energy scale, BiPo, PE area.

Areas are in PE where peaks have gains, else in ADC counts x samples. Light depends on the place
of a decay, for which the fraction of it in the top PMT stands: it needs no S2.
"""

from typing import NamedTuple

import numpy as np

from amstrax.calibration.result import Result, bootstrap, interval, minuit, p_value
from amstrax.exceptions import NoResult

#: Energies of the alphas [keV]: ENSDF, that is NDS 107 (2006) 1027 (Rn-222 and Po-218) and NDS 99
#: (2003) 649 (Po-214; NDS 121 (2014) 561 has 7686.82(7)). Recoils of daughters are left out
ENERGIES = {"Rn-222": 5489.5, "Po-218": 6002.4, "Po-214": 7686.8}
#: Half-life of Po-214 [us], from the mean life in Borexino's CTF, arXiv:1212.1332
HALF_LIFE = 163.6
#: S1s of alphas have a shorter central half of the area, by default 22 to 24 ns; of betas 37 to 47
LONGEST_ALPHA, LONGEST_BETA = 30.0, 60.0
#: Fewest alphas, fewest pairs, and fewest pulses
_FEWEST, _FEWEST_PAIRS, _FEWEST_PULSES = 200, 30, 100
#: Slices in the fraction at the top, degree of the polynomial through them, corrections in a row
_SLICES, _DEGREE, _ITERATIONS = 15, 4, 4
#: Squares above this many medians are outliers: 5.2 standard deviations of a normal distribution
_OUTLIER = 60.0
#: Width of the windows in ln(area) around the two lower lines
_LOW, _HIGH = -0.12, 0.19
#: The fit goes from the lowest to the highest line, and this much beyond
_BEYOND = 0.12
#: Of tails: width of a sample [ns], samples of the baseline, and rise and fall time of the pulse of
#: a photoelectron [ns], of run 999999
_DT, _BASELINE, _RESPONSE = 2.0, 40, (2.0, 6.5)


class Alphas(NamedTuple):
    """Fitted alpha lines; areas are corrected for the place."""

    lines: dict[str, Result]  #: positions
    sigmas: dict[str, Result]  #: standard deviations
    resolutions: dict[str, Result]  #: standard deviation / position [1]
    scale: Result  #: energy / area [keV per unit of area]
    corrected: np.ndarray  #: areas, shape (n,)
    light: np.ndarray  #: light of each / mean light of the alphas [1], shape (n,)
    edges: np.ndarray  #: of the bins, shape (k + 1,)
    counts: np.ndarray  #: alphas in the bins, shape (k,)
    expected: np.ndarray  #: by the fit, shape (k,)
    p_value: float


def find_alphas(area: np.ndarray, fraction_top: np.ndarray, unit: str = "PE") -> Alphas:
    """Return the lines of Rn-222, Po-218 and Po-214 in S1s, and the energy scale.

    The light of the two lower lines in slices of `fraction_top`, a polynomial of degree 4, is
    divided out, with a mean of 1 over the alphas. Three Gaussian peaks on an even background are
    fitted by a binned likelihood; the two lower ones, which overlap, have one relative width. The
    scale is the mean of energy / position of the lines; light need not be proportional to energy.

    Raises NoResult (a ValueError) for too few alphas, or without three lines.

    Parameters
    ----------
    area
        Areas of S1s, shape (n,); other S1s than those of alphas are smaller.
    fraction_top
        Fraction of it in the top PMT [1], shape (n,).
    unit
        Unit of the areas.
    """
    area, fraction_top = (np.asarray(x, dtype=np.float64) for x in (area, fraction_top))
    good = np.isfinite(area) & (area > 0) & (fraction_top > 0) & (fraction_top < 1)
    if good.sum() < _FEWEST:
        raise NoResult(
            f"{good.sum()} S1s of alphas with light in both PMTs are too few: take a longer run, "
            f"for {_FEWEST} or more"
        )
    light, first = _light(area[good], fraction_top[good])
    corrected, of_all = np.full(len(area), np.nan), np.full(len(area), np.nan)
    of_all[good], corrected[good] = light, area[good] / light
    return _fit(corrected, of_all, first, unit)


def _light(area: np.ndarray, fraction_top: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the relative light at each fraction, and ln of the area of Rn-222."""
    logs, x = np.log(area), np.log(fraction_top / (1 - fraction_top))
    x = np.clip(x, *np.quantile(x, (0.01, 0.99)))
    shift, above = np.zeros(len(area)), np.zeros(len(area))
    for i in range(_ITERATIONS):
        # At first each slice on its own; later the lines of all slices tell which alphas count
        first = None if i == 0 else _first_line(logs - shift)
        if first is not None:
            # Relative to its own line each: the median of two lines would follow their numbers
            above = _above_first(logs - shift, first)
        edges = np.quantile(x, np.linspace(0, 1, min(_SLICES, len(x) // 40) + 1))
        middles, shifts, weights = [], [], []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            own = (x >= low) & (x <= high)
            at = _first_line(logs[own]) if first is None else first
            near = (
                own & (logs - shift * (i > 0) > at + _LOW) & (logs - shift * (i > 0) < at + _HIGH)
            )
            if near.sum() > 5:
                middles.append(x[near].mean())
                shifts.append(np.median((logs - above)[near]) if i else at)
                weights.append(np.sqrt(near.sum()))
        degree = min(_DEGREE, len(middles) - 1)
        shift = np.polyval(np.polyfit(middles, shifts, degree, w=weights), x)
        shift -= np.median(shift)
    first = _first_line(logs - shift)
    alphas = logs - shift > first + _LOW
    factor = np.mean(np.exp(shift[alphas]))
    return np.exp(shift) / factor, first + np.log(factor)


def _above_first(logs: np.ndarray, first: float) -> np.ndarray:
    """Return how far the nearer of the two lower lines is above the first, in ln(area)."""
    step = np.log(ENERGIES["Po-218"] / ENERGIES["Rn-222"])
    near = (logs > first + _LOW) & (logs < first + _HIGH)
    upper = logs > first + step / 2
    if (near & upper).any() and (near & ~upper).any():
        step = np.median(logs[near & upper]) - np.median(logs[near & ~upper])
    return np.where(upper, step, 0.0)


def _first_line(logs: np.ndarray) -> float:
    """Return the logarithm of an area at which three lines, from Rn-222 on, explain most S1s."""
    from scipy.ndimage import gaussian_filter1d

    steps = np.log(np.array(list(ENERGIES.values())) / ENERGIES["Rn-222"])
    width = 0.01
    edges = np.arange(logs.min() - 0.6, logs.max() + 0.6, width)
    density = gaussian_filter1d(np.histogram(logs, edges)[0].astype(np.float64), 3.0)
    middles = edges[:-1] + width / 2
    lines = [np.interp(middles + step, middles, density, right=0) for step in steps]
    # The square root asks for all three, of which the third is often rare
    return float(middles[np.argmax(np.sum(np.sqrt(lines), axis=0))])


def _fit(corrected: np.ndarray, light: np.ndarray, first: float, unit: str) -> Alphas:
    from scipy.special import ndtr, xlogy

    energies = np.array(list(ENERGIES.values()))
    start = np.exp(first) * energies / energies[0]
    low, high = start[0] * (1 - _BEYOND), start[-1] * (1 + _BEYOND)
    inside = corrected[(corrected > low) & (corrected < high)]
    edges = np.linspace(low, high, 121)
    counts, n = np.histogram(inside, edges)[0], len(inside)
    if n < _FEWEST:
        raise NoResult(f"{n} alphas near {start[0]:.0f} {unit} are too few: take a longer run")

    def model(rn222, po218, po214, width, width_214, n_222, n_218, n_214, flat):
        positions = np.array([rn222, po218, po214])
        sigmas = positions * np.array([width, width, width_214])
        peaks = np.diff(ndtr((edges[:, None] - positions) / sigmas), axis=0)
        of_bins = peaks @ np.array([n_222, n_218, n_214]) + flat / len(counts)
        return np.maximum(of_bins, 1e-9)

    def minus_two_log_likelihood(*values: float) -> float:
        of_bins = model(*values)
        return 2 * float(np.sum(of_bins - counts + xlogy(counts, counts / of_bins)))

    names, of_peaks = ("rn222", "po218", "po214"), ("n_222", "n_218", "n_214")
    widths = ("width", "width_214")
    first_values = (*start, 0.03, 0.03, n / 3, n / 3, n / 4, n / 12)
    fit = minuit(
        minus_two_log_likelihood,
        dict(zip((*names, *widths, *of_peaks, "flat"), first_values, strict=True)),
        {
            **{name: (0.95 * x, 1.05 * x) for name, x in zip(names, start, strict=True)},
            **dict.fromkeys(widths, (0.004, 0.12)),
            **dict.fromkeys(of_peaks, (0, 1.5 * n)),
            "flat": (0.1, n),
        },
    )
    fit.strategy = 2
    for _ in range(3):  # at the lower limit of the background, errors can be wrong at first
        fit.migrad()
        if fit.valid and fit.values["flat"] < 1:
            fit.fixed["flat"] = True
        fit.hesse()
        if fit.valid and fit.accurate:
            break
    numbers = np.array([fit.values[name] for name in of_peaks])
    errors = np.array([fit.errors[name] for name in of_peaks])
    if not (fit.valid and fit.accurate) or (numbers < 2 * errors).any():
        raise NoResult(
            f"no three alpha lines found in {n} S1s near {start[0]:.0f} to {start[-1]:.0f} {unit}: "
            "look at the plot, and choose --max_width or --min_area"
        )
    covariance = np.array(fit.covariance)[:3, :3]
    positions = np.array(fit.values)[:3]
    # Derivative of the mean of energy / position
    slope = -energies / positions**2 / len(energies)
    scale, by = np.mean(energies / positions), np.sqrt(slope @ covariance @ slope)
    # The light that is divided out is that of medians of the two lower lines
    of_light = np.sqrt(np.pi / 2 / numbers[:2].sum()) * fit.values["width"]
    by = np.hypot(by, of_light * scale)
    expected = model(*fit.values)
    found: dict[str, dict[str, Result]] = {"position": {}, "sigma": {}, "resolution": {}}
    for name, parameter in zip(ENERGIES, names, strict=True):
        width = "width_214" if name == "Po-214" else "width"
        at, ratio, error = fit.values[parameter], fit.values[width], fit.errors[parameter]
        if name == "Po-214":
            error = np.hypot(error, of_light * at)
        for key, value, off, its in (
            ("position", at, error, unit),
            ("sigma", at * ratio, at * fit.errors[width], unit),
            ("resolution", ratio, fit.errors[width], "1"),
        ):
            found[key][name] = Result.with_error(
                f"{key} {name}", value, off, its, "fit of three lines"
            )
    return Alphas(
        found["position"],
        found["sigma"],
        found["resolution"],
        Result.with_error("energy_scale", scale, by, f"keV/({unit})", "fit of three lines"),
        corrected,
        light,
        edges,
        counts,
        expected,
        p_value(counts, expected, fit.nfit),
    )


def linearity(found: Alphas) -> Result:
    """Return light per energy of Po-214 / that of Rn-222 [1]; errors count as independent."""
    (low, high), name = (found.lines[x] for x in ("Rn-222", "Po-214")), "light_yield_ratio"
    ratio = high.value / low.value * ENERGIES["Rn-222"] / ENERGIES["Po-214"]
    by = ratio * np.hypot(high.error / high.value, low.error / low.value)
    return Result.with_error(name, ratio, by, "1", "Po-214 / Rn-222")


def alphas_of_peaks(
    peaks: np.ndarray,
    unit: str = "PE",
    longest: float = LONGEST_ALPHA,
    least_area: float | None = None,
) -> tuple[Alphas, np.ndarray]:
    """Return the lines in radon_peak_basics, and delays of Po-214 after betas [us], unsorted.

    S1s of alphas have light in both PMTs, a central half of the area of less than `longest` [ns],
    and at least `least_area`: None for a tenth of the largest. Other S1s, from a hundredth of the
    area of Rn-222 on, are betas, also those in one PMT: of betas in the simulation, a tenth to a
    third reach the threshold of the top PMT. `unit` is that of the areas. Raises NoResult as
    `find_alphas`.
    """
    area, width = peaks["area"], peaks["range_50p_area"]
    both = (peaks["n_channels"] == 2) & (width > 0)
    short = both & (width < longest)
    if least_area is None:
        least_area = 0.1 * area[short].max(initial=0)
    chosen = short & (area >= least_area)
    found = find_alphas(area[chosen], peaks["area_fraction_top"][chosen], unit)
    lowest = found.lines["Rn-222"].value
    is_alpha = np.zeros(len(peaks), dtype=bool)
    is_alpha[chosen] = found.corrected > (1 + _LOW) * lowest
    is_beta = (width > 0) & ~is_alpha & (width < LONGEST_BETA) & (area > 0.01 * lowest)
    off = np.abs(found.corrected - found.lines["Po-214"].value)
    po214 = peaks["center_time"][chosen][off < 3 * found.sigmas["Po-214"].value]
    return found, delays_before(np.sort(peaks["center_time"][is_beta]), np.sort(po214))


def delays_before(
    beta_time: np.ndarray, alpha_time: np.ndarray, most: float = 2000.0
) -> np.ndarray:
    """Return the times from each beta to alphas that follow within `most` [us].

    All pairs count, so that accidental ones are even in time. Times are sorted [ns].
    """
    first = np.searchsorted(alpha_time, beta_time, "right")
    last = np.searchsorted(alpha_time, beta_time + most * 1e3)
    n = last - first
    index = np.repeat(first - np.cumsum(n) + n, n) + np.arange(n.sum())
    return (alpha_time[index] - np.repeat(beta_time, n)) / 1e3


def half_life(delays: np.ndarray, least: float = 80.0, most: float = 2000.0) -> Result:
    """Return the half-life of Po-214 [us] from delays after betas, on an even background.

    Shorter delays than `least` [us] do not count: there the alpha can be in the S2 of the beta.

    Raises NoResult (a ValueError) for too few pairs.
    """
    delays = delays[(delays >= least) & (delays < most)]
    n, length = len(delays), most - least
    if n < _FEWEST_PAIRS:
        raise NoResult(
            f"{n} pairs of a beta and an alpha {least:g} to {most:g} us later are too few for a "
            f"half-life: take a longer run, for {_FEWEST_PAIRS} or more"
        )

    def minus_two_log_likelihood(tau: float, share: float) -> float:
        decay = np.exp(-(delays - least) / tau) / tau / -np.expm1(-length / tau)
        return -2 * float(np.sum(np.log(share * decay + (1 - share) / length)))

    fit = minuit(
        minus_two_log_likelihood,
        {"tau": HALF_LIFE / np.log(2), "share": 0.8},
        {"tau": (20.0, 1500.0), "share": (1e-3, 1.0)},
    )
    fit.migrad()
    fit.hesse()
    value, error = (x["tau"] * np.log(2) for x in (fit.values, fit.errors))
    if not fit.valid or error > 0.5 * value:
        raise NoResult(f"{n} pairs of a beta and an alpha do not determine a half-life")
    return Result.with_error("po214_half_life", value, error, "us", "delays of BiPo pairs")


def photoelectron_area(tails: np.ndarray, noise: float, excess: float = 1.45) -> Result:
    """Return the mean area of a photoelectron [ADC counts x samples] from tails of bright pulses.

    The two halves w1 and w2 of the tail have a fixed ratio r, but for numbers of photoelectrons:

        var(w1 - r w2) = excess x area x (w1 + r^2 w2) x shared + noise,

    where `shared` < 1 is for photoelectrons that are in two windows. It is calculated for a light
    that falls exponentially. The interval is statistical; the result is proportional to 1 /
    `excess`, which XAMSL cannot measure.

    Raises NoResult (a ValueError) for too few pulses, or where the noise explains the fluctuations.

    Parameters
    ----------
    tails
        Heights above baseline of one channel, aligned at the maximum [ADC counts], shape (n, m).
    noise
        Standard deviation of a sample [ADC counts].
    excess
        Mean square of the charge of a photon / square of the mean charge of a photoelectron, for
        a mean of photoelectrons: 1.45 for a spread of 0.35 and 20 % double photoelectrons.
    """
    n, half = len(tails), tails.shape[1] // 2
    if n < _FEWEST_PULSES or half < 2:
        raise NoResult(
            f"{n} pulses of alphas with {2 * half} samples of tail are too few for the area of a "
            f"photoelectron: take a longer run, for {_FEWEST_PULSES} or more"
        )
    w1, w2 = tails[:, :half].sum(axis=1), tails[:, half : 2 * half].sum(axis=1)
    r = float(w1.sum() / w2.sum())
    if not r > 1:
        raise NoResult(f"pulses of alphas do not fall in the tail, ratio {r:.2f}: choose --tail")
    excess *= _shared(half * _DT, r)

    def estimate(index: np.ndarray) -> float:
        one, two = w1[index], w2[index]
        r = one.sum() / two.sum()
        own = noise**2 * (half * (1 + r**2) + (half * (1 - r)) ** 2 / _BASELINE)
        off = (one - r * two) ** 2
        # Outliers, as of pulses on top of each other, would rule the variance
        kept = off < _OUTLIER * np.median(off)
        return float((off[kept].mean() - own) / (one + r**2 * two)[kept].mean() / excess)

    value = estimate(np.arange(n))
    low, high = interval(bootstrap(lambda index: np.array([estimate(index)]), n)[:, 0])
    if value < high - low:
        raise NoResult(
            f"fluctuations in tails of {n} pulses are those of the noise, {noise:.2g} ADC counts: "
            "take brighter pulses"
        )
    return Result(
        "photoelectron_area", value, low, high, "ADC counts x samples", "fluctuations in tails"
    )


def _shared(length: float, r: float) -> float:
    """Return var(w1 - r w2) / that of photoelectrons that are each in one window [ns] only."""
    rise, fall = _RESPONSE
    time = np.arange(-8 * fall, 2 * length, 0.1)  # of photoelectrons, from the first window on

    def until(t: np.ndarray) -> np.ndarray:
        """Return the share of a photoelectron's area until `t`."""
        t = np.maximum(t, 0)
        return 1 - (fall * np.exp(-t / fall) - rise * np.exp(-t / rise)) / (fall - rise)

    ends = [until(k * length - time) for k in range(3)]
    rate = r ** (-time / length)
    one, two = ends[1] - ends[0], ends[2] - ends[1]
    return float(np.sum(rate * (one - r * two) ** 2) / np.sum(rate * (one + r**2 * two)))


def tails_of(records: np.ndarray, window: tuple[float, float] = (30.0, 100.0)) -> np.ndarray:
    """Return tails of the bright pulses of a channel, as `photoelectron_area` takes them.

    Bright are those of a fifth or more of the area of the brightest percent, in two fragments.

    Parameters
    ----------
    records
        Of pulses of one channel without baseline, as radon_records.
    window
        Start and end of the tail, after the maximum [ns].
    """
    own = np.sort(records, order=("time",))
    rows = np.flatnonzero((own["record_i"][:-1] == 0) & (own["record_i"][1:] == 1))
    dt = own["dt"][0] if len(own) else 1
    first, last = (round(t / dt) for t in window)
    waves = np.concatenate([own["data"][rows], own["data"][rows + 1]], axis=1).astype(np.float64)
    top, area = waves.argmax(axis=1), waves.sum(axis=1)
    bright = area > 0.2 * (np.quantile(area, 0.99) if len(area) else 0)
    fits = bright & (top + last <= waves.shape[1])
    return np.take_along_axis(waves[fits], top[fits][:, None] + np.arange(first, last), axis=1)
