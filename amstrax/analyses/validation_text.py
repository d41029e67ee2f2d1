"""Validation reports as text and as JSON, and the comparison of two."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amstrax import strict_json
from amstrax.analyses.validation import FORMAT, LIMITS, limits_of
from amstrax.exceptions import InvalidOption

Report = dict[str, Any]

_SECTIONS = (
    ("S1", ("s1_",)),
    ("S2", ("s2_",)),
    ("Full energy of the source", ("line_",)),
    ("Events", ("event",)),
    ("Drift time and position", ("drift_time_", "z_", "x_", "y_", "ring_")),
    ("Corrected areas and energy", ("cs1_", "cs2_", "energy_")),
    ("Scatters", ("scatters",)),
    ("Electron lifetime", ("elife",)),
    ("What peaks are made of", ("peaks_", "stray_")),
    ("S1 pairs of Kr-83m", ("kr_",)),
    ("SiPM", ("sipm_",)),
    ("NaI detector", ("external_", "coincidence_")),
    ("LED", ("led_",)),
    ("Pile-up against rate", ("pile_up_",)),
)
_UNITS = {"external": "keV"}
#: Biases of lifetimes from cs2 per electron, and from cs2 of a line
_LIFETIMES = ("elife_per_electron_bias", "elife_bias")
#: Fraction of saturated signals from which saturation explains a poor area
_MANY = 0.3


def format_report(report: Report) -> str:
    """Return a report as a table, with standard errors."""
    lines = [_title(report), "", *poor_lines(report)]
    for section, names in _by_section(report):
        lines += ["", section]
        for name in names:
            entry = report["numbers"][name]
            lines.append(f"  {_with_error(entry)}  {entry['text']}")
    for kind, columns in report["by_size"].items():
        lines += ["", *_sizes(kind, columns)]
    if report["matrix"]:
        lines += ["", *_matrix(report)]
    return "\n".join(lines)


def poor_lines(report: Report) -> list[str]:
    """Return lines that name the numbers outside `LIMITS`."""
    unknown = report.get("unknown", [])
    left = f"Not known, most for too few signals: {len(unknown)} numbers with limits"
    left = left if unknown else ""
    if not report["poor"]:
        known = any(name in LIMITS and name not in unknown for name in report["numbers"])
        if not known:
            return [left or "No number has limits"]
        return ["Poor: none of the numbers with limits is outside these", *filter(None, [left])]
    lines = ["Poor: outside the limits on the right"]
    for name in report["poor"]:
        entry = report["numbers"][name]
        factor, unit = (100, " %") if entry["unit"] == "1" else (1, f" {entry['unit']}")
        low, high = (f"{factor * limit:g}" for limit in limits_of(name))
        lines.append(f"  {_with_error(entry)}  {entry['text']} [{low} to {high}{unit}]")
    return [*lines, *filter(None, [left]), *_plainly(report)]


def _plainly(report: Report) -> list[str]:
    """Return sentences on the weaknesses of the reconstruction that poor numbers come from."""
    numbers, poor = report["numbers"], set(report["poor"])

    def percent(name: str, signed: bool = False) -> str:
        value = 100 * numbers.get(name, {"value": math.nan})["value"]
        return f"{value:{'+' if signed else ''}.0f} %"

    def exceeds(name: str, least: float) -> bool:
        return numbers.get(name, {"value": math.nan})["value"] > least

    lines = []
    for kind in ("s1", "s2"):
        of = f"line_{kind}_area_bias"
        of = of if of in numbers else f"{kind}_area_bias"
        saturated = of.replace("area_bias", "saturated")
        if of in poor and exceeds(saturated, _MANY):
            which = numbers[of]["text"].partition(":")[0].removeprefix("area of ")
            lines.append(
                f"{percent(saturated)} of {which} saturate the ADC: area {percent(of, True)}, "
                f"although {percent(f'{kind}_efficiency')} are found"
            )
    ends = ("", "_of_line") if exceeds("s2_saturated", _MANY) else ()
    for change, bias in zip((f"elife_left{end}" for end in ends), _LIFETIMES, strict=False):
        if change in poor or bias in poor:
            is_known = bias in numbers and math.isfinite(numbers[bias]["value"])
            found = f"is {percent(bias, True)} off" if is_known else "is not found"
            what = numbers[change]["text"].partition(" from ")[0]
            lines.append(
                f"S2s saturate, those of short drifts most: {what} changes by "
                f"{percent(change, True)} over all drift times, the electron lifetime {found}"
            )
    if "kr_unknown" in poor:
        table = report["kr_delays"]
        shares = [k / (n or 1) for k, n in zip(table["unknown"], table["n"], strict=True)]
        low = table["edges"][shares.index(max(shares))]
        lines.append(
            f"{percent('kr_unknown')} of the S1 pairs of Kr-83m have no type, most with delays "
            f"from {low:g} ns on: one peak, wider than s1_max_width"
        )
    rings = [f"ring_{i}_bias" for i in range(1, 9) if f"ring_{i}_bias" in poor]
    if rings:
        last = max(rings, key=lambda name: abs(numbers[name]["value"]))
        lines.append(
            f"Positions are up to {abs(numbers[last]['value']):.0f} mm off in r: the polynomials "
            "do not know the light of the geometry, nor saturation"
        )
    return ["In words:", *(f"  {line}" for line in lines)] if lines else []


def _sizes(kind: str, columns: dict[str, list]) -> list[str]:
    """Return lines with efficiency and area of signals by size, without empty bins."""
    unit = _UNITS.get(kind, "PE")
    name = kind.upper() if kind in ("s1", "s2") else dict(sipm="SiPM", external="NaI")[kind]
    has_area = any(columns["n_area"])
    saturated = columns.get("n_saturated")
    titles = [f"{'true ' + unit:>22s}", f"{'signals':>8s}", f"{'found [%]':>10s}"]
    titles += [f"{'bias [%]':>9s}", f"{'resol. [%]':>11s}"] if has_area else []
    titles += [f"{'saturated [%]':>14s}"] if saturated else []
    lines = [f"{name}s by size", "".join(titles)]
    for i, n in enumerate(columns["n"]):
        if n == 0:
            continue
        low, high = columns["edges"][i : i + 2]
        line = f"{f'{low:.4g} to {high:.4g}':>22s}{n:8d}{100 * columns['n_found'][i] / n:10.1f}"
        if has_area:
            for field, width in (("bias", 9), ("resolution", 11)):
                value = columns[field][i]
                is_known = value is not None and math.isfinite(value)
                line += f"{100 * value:{width}.1f}" if is_known else f"{'-':>{width}s}"
        if saturated:
            line += f"{100 * saturated[i] / n:14.1f}"
        lines.append(line)
    return lines


def _matrix(report: Report) -> list[str]:
    """Return lines with kinds and outcomes of true signals."""
    lines = ["True signals by what they were found as"]
    matrix = report["matrix"]
    lines.append("  " + " " * 20 + "".join(f"{column:>10s}" for column in matrix["columns"]))
    for row, counts in zip(matrix["rows"], matrix["counts"], strict=True):
        lines.append(f"  {row:20s}" + "".join(f"{count:10d}" for count in counts))
    lines += ["", "Outcomes"]
    outcomes = report["outcomes"]
    lines.append("  " + " " * 8 + "".join(f"{name:>15s}" for name in outcomes["s1"]))
    for kind, counts in outcomes.items():
        lines.append(f"  {kind.upper():8s}" + "".join(f"{n:15d}" for n in counts.values()))
    if report.get("kr_delays"):
        table = report["kr_delays"]
        lines += ["", "S1 pairs of Kr-83m by delay"]
        names = ("two", "one", "unknown")
        lines.append(f"{'delay [ns]':>22s}{'pairs':>8s}" + "".join(f"{x:>10s}" for x in names))
        for i, n in enumerate(table["n"]):
            low, high = table["edges"][i : i + 2]
            last = i == len(table["n"]) - 1
            where = f"over {low:g}" if last else f"{low:g} to {high:g}"
            lines.append(f"{where:>22s}{n:8d}" + "".join(f"{table[x][i]:10d}" for x in names))
    return lines


def format_comparison(new: Report, old: Report) -> str:
    """Return the differences of two reports, also in units of their errors.

    Errors are those of independent runs. With the same seed they have the same true events, and
    differences of less than an error can be real.
    """
    lines = [f"new: {_title(new)}", f"old: {_title(old)}", *_differences(new, old)]
    if not new["numbers"].keys() & old["numbers"].keys():
        return "\n".join([*lines, "They have no number in common"])
    lines += ["", f"  {'new':>12s} {'new - old':>12s} {'error':>10s} {'sigma':>7s}"]
    for section, names in _by_section(new):
        if not any(name in old["numbers"] for name in names):
            continue
        lines.append(section)
        for name in names:
            if name in old["numbers"]:
                lines.append(_compared(new["numbers"][name], old["numbers"][name]))
    return "\n".join(lines)


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON, which replaces an older file once it is complete."""
    strict_json.write_text(path, json.dumps(_without_nan(report), indent=1) + "\n")


def read_report(path: str | Path) -> Report:
    """Return a report in JSON; raises InvalidOption (a ValueError) when the file has none."""
    try:
        report = strict_json.load_object(path, InvalidOption)
    except InvalidOption as error:
        raise InvalidOption(
            f"no report can be read: {error}. Name a validation.json of `amstrax validate`"
        ) from None
    numbers = report.get("numbers")
    if not isinstance(numbers, dict) or not all(
        isinstance(entry, dict) and {"value", "error"} <= entry.keys() for entry in numbers.values()
    ):
        raise InvalidOption(f"{path} is no report of `amstrax validate`")
    if report.get("format") != FORMAT:
        raise InvalidOption(
            f"{path} has format {report.get('format')} of a report, this amstrax compares format "
            f"{FORMAT}: make it again"
        )
    for entry in numbers.values():
        for key in ("value", "error"):
            if entry[key] is None:
                entry[key] = math.nan
    return report


def _title(report: Report) -> str:
    made = report.get("made", {})
    what = f"{made['source']} in {made['detector']}, " if made.get("source") else ""
    how = f", {made['rate']:g} Hz, seed {made['seed']}" if made.get("source") else ""
    events = "" if report["n_events"] is None else f"{report['n_events']} reconstructed, "
    return (
        f"{what}{made.get('duration', math.nan):.6g} s{how}: {report['n_truth']} true events, "
        f"{events}{report['n_peaks']} peaks"
    )


def _differences(new: Report, old: Report) -> list[str]:
    """Return lines that tell whether the true events are the same, or how the runs differ."""
    runs = []
    for report in (new, old):
        made = report.get("made", {})
        of_run = {name: made.get(name) for name in ("detector", "source", "rate", "seed")}
        runs.append({**of_run, "duration": made.get("duration"), **(made.get("simulation") or {})})
    names = dict.fromkeys([*runs[0], *runs[1]])
    differ = [name for name in names if runs[0].get(name) != runs[1].get(name)]
    if differ == ["amstrax"]:
        versions = " and ".join(str(run.get("amstrax")) for run in runs)
        return [f"Simulated by amstrax {versions}: the true events may differ."]
    if differ:
        told = "; ".join(f"{x} {runs[0].get(x)} and {runs[1].get(x)}" for x in differ)
        return [f"The runs differ, not only their processing: {told}."]
    if new.get("made", {}).get("source") is None or new["n_truth"] != old["n_truth"]:
        return []
    return [
        "Both have the same true events: errors of differences are overestimates, and any "
        "difference comes from the processing."
    ]


def _by_section(report: Report) -> Iterator[tuple[str, list[str]]]:
    for section, prefixes in _SECTIONS:
        names = [name for name in report["numbers"] if name.startswith(prefixes)]
        if names:
            yield section, names


def format_number(entry: dict[str, Any]) -> str:
    """Return a number of a report with its error and unit; fractions in per cent."""
    return " ".join(_with_error(entry).split())


def _with_error(entry: dict[str, Any]) -> str:
    value, error, unit = _scaled(entry)
    if math.isnan(value):
        return f"{'-':>10s}{'':16s}"
    return f"{_rounded(value, error):>10s} +- {_rounded(error, error):<8s} {unit:3s}"


def _scaled(entry: dict[str, Any]) -> tuple[float, float, str]:
    """Return value, error and unit: fractions in per cent."""
    factor, unit = (100.0, "%") if entry["unit"] == "1" else (1.0, entry["unit"])
    return entry["value"] * factor, entry["error"] * factor, unit


def _rounded(number: float, error: float) -> str:
    """Return a number to two digits of its error."""
    if math.isnan(number):
        return "-"
    if not error > 0:
        return f"{number:#.3g}"
    digits = 1 - math.floor(math.log10(error))
    return f"{number:.{digits}f}" if digits > 0 else f"{round(number, digits):.0f}"


def _compared(new: dict[str, Any], old: dict[str, Any]) -> str:
    value, new_error, unit = _scaled(new)
    before, old_error, _ = _scaled(old)
    difference = value - before
    error = math.hypot(*(0 if math.isnan(e) else e for e in (new_error, old_error)))
    if math.isnan(difference):
        sigma = "-"
    elif difference == 0:
        sigma = "0"
    else:
        sigma = f"{difference / error:+.1f}" if error > 0 else "-"
    return (
        f"  {_rounded(value, error):>12s} {_rounded(difference, error):>12s} "
        f"{_rounded(error, error):>10s} {sigma:>7s}  {unit:3s} {new['text']}"
    )


def _without_nan(value: Any) -> Any:
    """Return nested `value` with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
