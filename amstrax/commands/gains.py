"""The command ``amstrax gains``: measure gains in LED runs, print and plot them, write a file."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.exceptions import NoGain, UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import numpy as np

    from amstrax.calibration.gains import Gain
    from amstrax.calibration.result import Result

    Gains = Mapping[int, Mapping[str, Gain | NoGain]]

log = logging.getLogger("amstrax.gains")

CONTEXT, DATA_TYPE, OPTION = "xams_led", "led_calibration", "gain_to_pe_array"
#: Limits for warnings: difference of the two methods [errors], p-value of the fit
_ODD_SIGMA, _ODD_P_VALUE = 3.0, 1e-3


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure the gain of each channel in LED calibration runs with two methods, "
        "and write the gains as an entry of a correction file",
    )
    runs = "LED runs of one setting, which are analysed together, as 006724"
    calibrating.add_options(parser, runs, "--output")
    add = parser.add_argument
    add(
        "--led_off",
        nargs="+",
        default=[],
        metavar="RUN_ID",
        type=base.run_id,
        help="runs with the LED off, for the noise (default: the noise window of the LED runs); "
        "their --testing_rundoc come last",
    )
    add(
        "--method",
        choices=("mean", "fit"),
        default="mean",
        help="gain to write: of the means, or of the fit to the spectrum (default: %(default)s)",
    )
    add(
        "--channel",
        dest="channels",
        action="append",
        default=[],
        type=_channel_value,
        metavar="N=VALUE",
        help="value to write for a channel that the LED does not reach, as 5=0.0178 (default: "
        "that of the range before). Can be given more than once",
    )
    args = parser.parse_args(argv)
    return calibrating.check_options(parser, args, [*args.run_ids, *args.led_off])


def _channel_value(text: str) -> tuple[int, float]:
    channel, _, value = text.partition("=")
    try:
        result = int(channel), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write N=VALUE, as 5=0.0178") from None
    if not (0 <= result[0] < 1000 and 0 < result[1] < float("inf")):
        raise argparse.ArgumentTypeError(f"{text!r}: channels count from 0, values are above 0")
    return result


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Measure gains; raise NoGain if no channel has one."""
    from amstrax.calibration.gains import channel_gains

    pulses, windows = load(args, args.run_ids, stop)
    off = None
    if args.led_off:
        off, off_windows = load(args, args.led_off, stop)
        if off_windows != windows:
            raise UsageError(f"--led_off: made with windows {off_windows}, not {windows}")
    log.info("looking for gains in %d pulses of %s", len(pulses), ", ".join(args.run_ids))
    gains = channel_gains(pulses, **windows, off=off)
    text = table(gains, args.method)
    if all(isinstance(methods["mean"], NoGain) for methods in gains.values()):
        why = "".join(f"; channel {c}: {methods['mean']}" for c, methods in list(gains.items())[:1])
        raise NoGain(f"no channel of {', '.join(args.run_ids)} has a gain{why}")
    _warn(gains)
    return calibrating.Measured(
        results(gains),
        lambda: analyses.plot_gains(pulses, gains),
        lambda entry: _values(gains, args.method, dict(args.channels), entry),
        [text],
        has_table=False,
    )


def load(
    args: argparse.Namespace, run_ids: Sequence[str], stop: Stop
) -> tuple["np.ndarray", dict[str, tuple[int, int]]]:
    """Return led_calibration of runs, made if it is not stored, and its windows.

    Raises UsageError if the runs were made with different windows.
    """
    import numpy as np

    parts, all_windows = [], []
    found = calibrating.processed(
        # Runs with the LED off may be called otherwise
        *(args, run_ids, (DATA_TYPE,), stop),
        may_differ=args.led_off,
        context=CONTEXT,
    )
    for run_id, st in found:
        # Windows of the stored data may differ from those of the context
        made_with = st.get_metadata(run_id, DATA_TYPE)["lineage"][DATA_TYPE][2]
        all_windows.append({w: tuple(made_with[w]) for w in ("led_window", "noise_window")})
        parts.append(st.get_array(run_id, DATA_TYPE, progress_bar=False))
    for run_id, windows in zip(run_ids, all_windows, strict=True):
        if windows != all_windows[0]:
            raise UsageError(
                f"run {run_id} was made with windows {windows}, and run {run_ids[0]} with "
                f"{all_windows[0]}: such runs cannot be analysed together"
            )
    return np.concatenate(parts), all_windows[0]


def results(gains: "Gains") -> "list[Result]":
    """Return the gains of channels and methods, as in correction files."""
    from amstrax.calibration.result import Result

    unit = "photoelectrons per ADC count x sample"
    return [
        Result.with_error(f"{OPTION}[{channel}]", *gain.to_pe, unit, name)
        for channel, methods in gains.items()
        for name, gain in methods.items()
        if not isinstance(gain, NoGain)
    ]


def table(gains: "Gains", method: str) -> str:
    """Return gains as a table; errors combine statistical and systematic ones."""
    lines = [
        "gain: mean area of a photoelectron [ADC counts x samples]; its error includes the "
        "systematic one of the method",
        f"{OPTION}: 1 / gain, of the {method} [photoelectrons per ADC count x sample]",
        "",
        f"{'channel':>7s} {'method':>6s} {'pulses':>9s} {'occupancy':>18s} {'gain':>16s} "
        f"{'spread':>7s} {'chi2/free':>10s} {'p':>6s} {OPTION:>22s}",
    ]
    for channel, methods in gains.items():
        for name, gain in methods.items():
            start = f"{channel:7d} {name:>6s} "
            if isinstance(gain, NoGain):
                lines.append(f"{start} none: {gain}")
                continue
            chi2 = f"{gain.chi2:.0f}/{gain.n_free}" if gain.n_free else "-"
            p_value = f"{gain.p_value:.3f}" if gain.n_free else "-"
            to_pe = "" if name != method else f"{gain.to_pe.value:.3e} +- {gain.to_pe.error:.1e}"
            occupancy = f"{gain.occupancy.value:.4f} +- {gain.occupancy.error:.4f}"
            value = f"{gain.gain.value:.2f} +- {gain.error:.2f}"
            lines.append(
                f"{start}{gain.n_pulses:9d} {occupancy:>18s} {value:>16s} {gain.spread:7.3f} "
                f"{chi2:>10s} {p_value:>6s} {to_pe:>22s}".rstrip()
            )
    return "\n".join(lines)


def _warn(gains: "Gains") -> None:
    for channel, methods in gains.items():
        mean, fit = methods["mean"], methods["fit"]
        if isinstance(mean, NoGain) or isinstance(fit, NoGain):
            continue
        sigma = abs(mean.gain.value - fit.gain.value) / (mean.error**2 + fit.error**2) ** 0.5
        if sigma > _ODD_SIGMA:
            log.warning("channel %d: mean and fit differ by %.1f errors", channel, sigma)
        if fit.p_value < _ODD_P_VALUE:
            log.warning(
                "channel %d: the fit does not describe the spectrum (p = %.1g); see --plot",
                channel,
                fit.p_value,
            )


def _values(
    gains: "Gains", method: str, given: Mapping[int, float], new: calibrating.NewEntry
) -> list[float]:
    """Return the gain of each channel: given, else measured, else from the range before."""
    from amstrax.corrections import lookup

    before = lookup.value_before(lookup.read_entries(new.path), new.entry) or ()
    values = []
    for channel in range(max(len(before) - 1, *gains, *given) + 1):
        gain = gains.get(channel, {}).get(method)
        if channel in given:
            value = given[channel]
        elif isinstance(gain, NoGain):
            raise NoGain(
                f"channel {channel} has no gain ({gain}), and nothing was written: give it a value "
                f"with --channel {channel}=VALUE"
            )
        elif gain is not None:
            value = gain.to_pe.value
        elif channel < len(before):
            value = before[channel]
            log.info("channel %d is not in the LED runs: it keeps %s", channel, value)
        else:
            raise UsageError(
                f"channel {channel} is not in the LED runs, and no range before has it: give it a "
                f"value with --channel {channel}=VALUE"
            )
        values.append(value)
    return values


main = calibrating.main_of(parse_args, measure, lambda args: (OPTION,), log, "the gains")

if __name__ == "__main__":
    sys.exit(main())
