"""Validation reports as text and as JSON, and the comparison of two."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amstrax import strict_json
from amstrax.analyses.validation import FORMAT
from amstrax.exceptions import InvalidOption

Report = dict[str, Any]

_SECTIONS = (
    ("S1", ("s1_",)),
    ("S2", ("s2_",)),
    ("Events", ("event",)),
    ("Drift time and position", ("drift_time_", "z_", "x_", "y_")),
    ("Electron lifetime", ("elife",)),
    ("Other peaks", ("stray_",)),
)


def format_report(report: Report) -> str:
    """Return a report as a table, with standard errors."""
    lines = [_title(report)]
    for section, names in _by_section(report):
        lines += ["", section]
        for name in names:
            entry = report["numbers"][name]
            lines.append(f"  {_with_error(entry)}  {entry['text']}")
    lines += ["", "True signals by what they were found as"]
    matrix = report["matrix"]
    lines.append("  " + " " * 20 + "".join(f"{column:>10s}" for column in matrix["columns"]))
    for row, counts in zip(matrix["rows"], matrix["counts"], strict=True):
        lines.append(f"  {row:20s}" + "".join(f"{count:10d}" for count in counts))
    lines += ["", "Outcomes"]
    outcomes = report["outcomes"]
    lines.append("  " + " " * 8 + "".join(f"{name:>15s}" for name in outcomes["s1"]))
    for kind, counts in outcomes.items():
        lines.append(f"  {kind.upper():8s}" + "".join(f"{n:15d}" for n in counts.values()))
    return "\n".join(lines)


def format_comparison(new: Report, old: Report) -> str:
    """Return the differences of two reports, also in units of their errors.

    Errors are those of independent runs. With the same seed they have the same true events, and
    differences of less than an error can be real.
    """
    lines = [f"new: {_title(new)}", f"old: {_title(old)}"]
    if _is_same_run(new, old):
        lines.append(
            "Both have the same true events: errors of differences are overestimates, and any "
            "difference comes from the processing."
        )
    lines += ["", f"  {'new':>12s} {'new - old':>12s} {'error':>10s} {'sigma':>7s}"]
    for section, names in _by_section(new):
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
    return (
        f"{what}{made.get('duration', math.nan):.6g} s{how}: {report['n_truth']} true events, "
        f"{report['n_events']} reconstructed, {report['n_peaks']} peaks"
    )


def _is_same_run(new: Report, old: Report) -> bool:
    keys = ("detector", "source", "rate", "duration", "seed", "run_id")
    made, made_before = new.get("made", {}), old.get("made", {})
    is_known = made.get("source") is not None
    return is_known and all(made.get(key) == made_before.get(key) for key in keys)


def _by_section(report: Report) -> Iterator[tuple[str, list[str]]]:
    for section, prefixes in _SECTIONS:
        yield section, [name for name in report["numbers"] if name.startswith(prefixes)]


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
