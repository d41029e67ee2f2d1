"""Sets of runs, as ranges that include both first and last run."""

from collections.abc import Iterable

#: First and last run; the last may be infinite
Range = tuple[float, float]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return sorted ranges, with overlapping and adjacent ones merged."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(last, result[-1][1])
        else:
            result.append((first, last))
    return result


def common(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return the runs that are in both sets."""
    one, other = merged(one), merged(other)
    result = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, last = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first <= last:
            result.append((first, last))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return merged(result)


def without(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return the runs of `one` that are not in `other`."""
    result = []
    holes = merged(other)
    j = 0
    for first, last in merged(one):
        while j < len(holes) and holes[j][0] <= last:
            begin, end = holes[j]
            if begin > first:
                result.append((first, begin - 1))
            first = max(first, end + 1)
            if end > last:  # it may reach into the next range too
                break
            j += 1
        if first <= last and first < float("inf"):
            result.append((first, last))
    return result


#: Ranges on either side of a run in a shortened text
_NEAREST = 2


def as_text(ranges: Iterable[Range], around: int | None = None) -> str:
    """Return ranges as in correction files, separated by commas; ``none`` for an empty set.

    Parameters
    ----------
    ranges
        Sorted, without overlaps.
    around
        A run: only ranges that are nearest to it are in the text, and ``...`` for the others.
    """
    texts = list(map(_one_as_text, ranges := list(ranges)))
    if around is not None:
        below = sum(last < around for _, last in ranges)
        first, end = max(below - _NEAREST, 0), below + _NEAREST
        left_out = ["..."] * (first > 0), ["..."] * (end < len(texts))
        texts = [*left_out[0], *texts[first:end], *left_out[1]]
    return ", ".join(texts) or "none"


def _one_as_text(range_: Range) -> str:
    first, last = (f"{run:06.0f}" if run < float("inf") else "*" for run in range_)
    return first if first == last else f"{first}-{last}"
