"""Sets of runs, as ranges from a first to a last run, both of which belong to it."""

from collections.abc import Iterable

#: First and last run; the last may be infinite
Range = tuple[float, float]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges sorted, with those that overlap or touch made one."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(last, result[-1][1])
        else:
            result.append((first, last))
    return result


def common(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return the runs that are in both."""
    other = list(other)
    pairs = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return merged((first, last) for first, last in pairs if first <= last)


def without(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return the runs of `one` that are not in `other`."""
    result = []
    holes = merged(other)
    for first, last in merged(one):
        for begin, end in holes:
            if end < first or begin > last:
                continue
            if begin > first:
                result.append((first, begin - 1))
            first = end + 1
        if first <= last and first < float("inf"):
            result.append((first, last))
    return result


def as_text(ranges: Iterable[Range]) -> str:
    """Return ranges as correction files have them, with commas between; ``none`` without one."""
    return ", ".join(map(_one_as_text, ranges)) or "none"


def _one_as_text(range_: Range) -> str:
    first, last = (f"{run:06.0f}" if run < float("inf") else "*" for run in range_)
    return first if first == last else f"{first}-{last}"
