"""Corrections: from the text of a file and a run to a value, and sets of runs."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.corrections import lookup, ranges
from amstrax.exceptions import AmstraxError, InvalidCorrection, RunNotCovered

pytestmark = pytest.mark.smoke

PROPERTY = settings(max_examples=60, deadline=None, database=None)


def value(content, run_id, file_name="elife_v1.json"):
    """Return what is in a file with `content` for a run."""
    table = lookup.entries(content, file_name)
    return lookup.find(table, run_id, file_name).value


@pytest.mark.parametrize(
    ("run_id", "expected"),
    [("001110", 1), ("1110", 1), (2000, 1), ("004020", 1), ("004021", 2), ("4022", 3), (5000, 3)],
)
def test_both_ends_belong_to_a_range(run_id, expected):
    content = {"001110-004020": 1, "004021": 2, "004022-005000": 3}
    assert value(content, run_id) == expected


@pytest.mark.parametrize(
    ("run_id", "nearest"),
    [("000001", ["'000010-000020'"]), ("25", ["'000010-000020'", "'000030'"]), (31, ["'000030'"])],
)
def test_run_in_no_range_names_file_run_and_the_nearest_ranges(run_id, nearest):
    with pytest.raises(RunNotCovered) as info:
        value({"000030": 1, "000010-000020": 2}, run_id)
    message = str(info.value)
    assert "elife_v1.json" in message and f"run {int(run_id):06d}" in message
    assert all(text in message for text in nearest)
    assert message.count("'") == 2 * len(nearest)
    assert isinstance(info.value, LookupError)


def test_file_without_ranges():
    with pytest.raises(RunNotCovered, match="none"):
        value({}, 1)


def test_run_in_two_ranges_names_both_and_the_file():
    content = {"000001-000010": 1, "000005-000020": 2}
    assert value(content, 4) == 1 and value(content, 11) == 2
    for run in (5, 10):
        with pytest.raises(InvalidCorrection) as info:
            value(content, run)
        for text in ("elife_v1.json", f"run {run:06d}", "000001-000010", "000005-000020"):
            assert text in str(info.value)


def test_open_ranges_in_development_files_alone():
    content = {"*-001109": 1, "001110-004020": 2, "004021-*": 3}
    found = [value(content, run, "elife_dev.json") for run in (0, 1109, 1110, 4021, 10**9)]
    assert found == [1, 1, 2, 3, 3]
    assert value({"*-*": 7}, 5, "elife_dev.json") == 7
    with pytest.raises(InvalidCorrection, match=r"elife_v1.json.*'\*-001109'.*_dev"):
        value(content, 1110)


@pytest.mark.parametrize(
    "text", ["", "*", "-", "1-", "-1", "a-b", "1-2-3", "1 - 2", "2-1", "1.0", "-5-3", "\u0661-2"]
)
def test_what_is_no_range(text):
    with pytest.raises(InvalidCorrection, match="elife_dev.json") as info:
        value({text: 1}, 1, "elife_dev.json")
    assert repr(text) in str(info.value)


@pytest.mark.parametrize("run_id", ["kr83m", "_superrun", "", "12a", "-3", "\u0661"])
def test_run_without_a_number(run_id):
    with pytest.raises(RunNotCovered, match="no number"):
        value({"000001-000002": 1}, run_id)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{\n  "000001": 1\n  "000002": 2\n}', "line 3, column 3"),
        ('{\n"000001-000002" = 1}', "line 2, column 17"),
        ("", "line 1, column 1"),
        ("[1, 2]", "line 1, column 1"),
        ('{"000001": 1,\n "000002": 2,\n "000001": 1}', "line 3, column 2"),
        ('{"000001": {"a": 1, "a": 2}}', "line 1, column 21"),
    ],
)
def test_what_is_no_json_object_is_named_with_its_place(text, place):
    with pytest.raises(InvalidCorrection) as info:
        lookup.parse(text, "/a/elife_v1.json")
    assert f"/a/elife_v1.json, {place}" in str(info.value)


def test_the_malformed_file_as_published(shared):
    path = shared / "data/corrections/gain_to_pe_array/gain_to_pe_array_v1.json"
    with pytest.raises(InvalidCorrection, match="gain_to_pe_array_v1.json, line 18, column 21"):
        lookup.parse(path.read_text(encoding="utf-8"), str(path))


def test_all_other_published_files_work(shared):
    read = 0
    for path in sorted((shared / "data/corrections").glob("*/*.json")):
        if path.name == "gain_to_pe_array_v1.json":
            continue
        content = lookup.parse(path.read_text(encoding="utf-8"), str(path))
        assert lookup.folder_of(path.name) == path.parent.name
        if path.parent.name != "_global":
            table = lookup.entries(content, path.name)
            for entry in table:
                assert lookup.find(table, entry.first + 1, path.name) == entry
            read += 1
    assert read == 11


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("elife_v1.json", "elife"),
        ("gain_to_pe_array_dev.json", "gain_to_pe_array"),
        ("_global_ONLINE.json", "_global"),
        ("a_v1.2-b.json", "a"),
    ],
)
def test_folder_of_a_file(name, folder):
    assert lookup.folder_of(name) == folder


@pytest.mark.parametrize(
    "name", ["elife.json", "elife_v1", "../elife_v1.json", "a/b_v1.json", "_v1.json", "a_...json"]
)
def test_what_is_no_name_of_a_file(name):
    with pytest.raises(InvalidCorrection, match="NAME_VERSION.json"):
        lookup.folder_of(name)


numbers = st.integers(0, 60)
spans = st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(spans, max_size=8), numbers)
@PROPERTY
def test_a_run_has_the_one_value_whose_range_holds_it(pairs, run):
    content = {f"{first:06d}-{last:06d}": i for i, (first, last) in enumerate(pairs)}
    holding = [v for text, v in content.items() if int(text[:6]) <= run <= int(text[-6:])]
    if len(holding) == 1:
        assert value(content, run) == holding[0]
    else:
        with pytest.raises(InvalidCorrection if holding else RunNotCovered):
            value(content, run)


def runs_of(sets):
    return {run for first, last in sets for run in range(int(first), int(min(last, 99)) + 1)}


spans_or_open = st.lists(st.one_of(spans, numbers.map(lambda n: (n, math.inf))), max_size=6)


@given(spans_or_open, spans_or_open)
@PROPERTY
def test_sets_of_runs_are_sets(one, other):
    for found, expected in (
        (ranges.merged(one), runs_of(one)),
        (ranges.common(one, other), runs_of(one) & runs_of(other)),
        (ranges.without(one, other), runs_of(one) - runs_of(other)),
    ):
        assert runs_of(found) == expected
        # Sorted, and with a gap between each two
        assert all(a[1] + 1 < b[0] for a, b in zip(found, found[1:], strict=False))


def test_sets_of_runs_as_text():
    assert ranges.as_text([(1, 1), (3, 4), (7, math.inf)]) == "000001, 000003-000004, 000007-*"
    assert ranges.as_text([]) == "none"


@given(st.text(max_size=30))
@PROPERTY
def test_no_text_does_anything_but_fail_cleanly_or_work(text):
    try:
        content = lookup.parse(text, "here")
        lookup.find(lookup.entries(content, "a_dev.json"), 3, "here")
    except AmstraxError as error:
        assert "here" in str(error) or "a_dev.json" in str(error)


def test_frozen_values_have_no_lists_and_are_the_same():
    value = [1, [2.5, {"a": [None, [True]], "b": "c"}], []]
    frozen = lookup.frozen(value)
    assert frozen == (1, (2.5, {"a": (None, (True,)), "b": "c"}), ())
    assert json.dumps(frozen) == json.dumps(value)
