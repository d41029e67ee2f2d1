"""Corrections: from the text of a file and a run to a value, and sets of runs."""

import json
import math

import pytest
from corrections_files import write_files
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax import strict_json
from amstrax.corrections import check, lookup, store
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
    [
        ("000001", "000010-000020, 000030, ..."),
        ("25", "000010-000020, 000030, 000040-000050, ..."),
        (31, "000010-000020, 000030, 000040-000050, 000060, ..."),
        (71, "..., 000060, 000070"),
    ],
)
def test_run_in_no_range_names_file_run_and_the_nearest_ranges(run_id, nearest):
    content = dict.fromkeys(("000030", "000010-000015", "000016-000020", "000040-000050"), 1)
    with pytest.raises(RunNotCovered) as info:
        value(content | {"000060": 2, "000070": 3}, run_id)
    message = str(info.value)
    assert "elife_v1.json" in message and f"run {int(run_id):06d}" in message
    assert f"the file covers {nearest}. Add" in message
    assert isinstance(info.value, LookupError)


def test_file_without_ranges():
    with pytest.raises(RunNotCovered, match="covers none"):
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
        ('{"000001": 1,\n "000002": 2,\n "000001": 1}', "line 1, column 2"),
        ('{"000001": {"a": 1, "a": 2}}', "line 1, column 13"),
    ],
)
def test_what_is_no_json_object_is_named_with_its_place(text, place):
    with pytest.raises(InvalidCorrection) as info:
        store.parse(text, "/a/elife_v1.json")
    assert f"/a/elife_v1.json, {place}" in str(info.value)


#: JSON of values that are refused wherever they are -> what is said of them
BAD_NUMBERS = {
    "NaN": "NaN is no finite number",
    "Infinity": "Infinity is no finite number",
    "-Infinity": "-Infinity is no finite number",
    "1e999": "1e999 is no finite number",
    "-1e999": "-1e999 is no finite number",
    '"nan"': "the value of '000011' has 'nan': give a finite number",
    '" -Infinity "': "the value of '000011' has ' -Infinity ': give a finite number",
    str(2**63): f"{2**63} is too large",
    str(-(2**63) - 1): f"{-(2**63) - 1} is too large",
    "9" * 6000: r"9{56}\.\.\. is too large",
}


@pytest.mark.parametrize("number", BAD_NUMBERS, ids=lambda text: text[:12])
@pytest.mark.parametrize("value", ["{}", "[1, {}]", "[[1, 2], [3, {}]]", '{{"a": [{}]}}'])
def test_numbers_that_no_correction_can_be(number, value):
    text = '{"000001-000010": 1,\n "000011": ' + value.format(number) + "}"
    with pytest.raises(InvalidCorrection, match=BAD_NUMBERS[number]) as info:
        store.parse(text, "/a/elife_v1.json")
    column = 2 if '"' in number else text.rindex(number) - text.index("\n")
    assert f"/a/elife_v1.json, line 2, column {column}: " in str(info.value)
    assert len(str(info.value)) < 200


def test_the_largest_numbers():
    values = [2**63 - 1, -(2**63), 1.7e308, -0.0, 5e-324]
    assert store.parse(json.dumps({"1": values}), "")["1"] == values


@pytest.mark.parametrize("value", ["[1, true]", "[1, null]", '[1, "2"]', "[[0.5, [1]]]"])
def test_lists_of_numbers_and_other_values(value):
    with pytest.raises(InvalidCorrection, match="elife_v1.json, line 1.*'000001' has a list with"):
        store.parse('{"000001": ' + value + "}", "elife_v1.json")


@pytest.mark.parametrize("depth", [110, 600, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}")])
def test_deep_values(depth, begin, end):
    text = '{"000001": ' + begin * depth + "1" + end * depth + "}"
    with pytest.raises(InvalidCorrection, match=r"elife_v1.json.* nested more than 100 deep"):
        store.parse(text, "elife_v1.json")


def test_names_that_are_written_in_other_ways():
    text = '{"a": "\\"000001\\": ",\n "00000\\u0031": 1,\n\n  "000001": 2}'
    with pytest.raises(InvalidCorrection, match="line 4, column 3: '000001' occurs twice"):
        store.parse(text, "here")
    assert store.find_name(text, "000001") == "line 2, column 2"
    assert store.find_name(text, "000002") == "line 1, column 1"


def test_numbers_of_runs_that_are_too_long():
    digits = "1" * 5000
    with pytest.raises(InvalidCorrection, match="is no range of runs"):
        value({digits: 1}, 1)
    with pytest.raises(RunNotCovered, match="no number"):
        value({"000001": 1}, digits)


MANY = 20_000


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_many_ranges(tmp_path):
    """Of quadratic work, all of these would take minutes."""
    content = {f"{2 * i:06d}-{2 * i + 1:06d}": i for i in range(MANY)}
    text = json.dumps(content, indent=1)
    assert store.parse(text, "here") == content
    assert value(content, 2 * MANY - 1) == MANY - 1
    table = [entry[:2] for entry in lookup.entries(content, "elife_v1.json")]
    gaps = [(first + 0.0, first) for first, _ in table]
    assert lookup.common(table, gaps) == lookup.common(gaps, table)
    assert len(lookup.without(table, gaps)) == MANY
    twice = text[:-2] + f',\n "{2 * MANY - 2:06d}-{2 * MANY - 1:06d}": 1\n}}'
    with pytest.raises(InvalidCorrection, match=f"line {MANY + 1}, column 2.*twice"):
        store.parse(twice, "here")
    # All of them wrong, or changed
    folder = write_files(tmp_path / "new", elife_v1=content)
    changed = write_files(tmp_path / "old", elife_v1={name: 0.5 for name in content})
    assert len(check.check_folder(folder, changed).problems) == MANY
    wide = write_files(tmp_path / "wide", elife_v1={f"000000-{2 * MANY - 1:06d}": 0.5})
    assert len(check.check_folder(folder, wide).problems) == MANY
    overlap = {f"{i:06d}-999999": 1 for i in range(MANY)}
    write_files(folder, elife_v1=overlap)
    assert len(check.check_folder(folder).problems) == MANY - 1


def test_the_malformed_file_as_published(shared):
    path = shared / "data/corrections/gain_to_pe_array/gain_to_pe_array_v1.json"
    with pytest.raises(InvalidCorrection, match="gain_to_pe_array_v1.json, line 18, column 21"):
        store.parse(path.read_text(encoding="utf-8"), str(path))


def test_all_other_published_files_work(shared):
    read = 0
    for path in sorted((shared / "data/corrections").glob("*/*.json")):
        if path.name == "gain_to_pe_array_v1.json":
            continue
        content = store.parse(path.read_text(encoding="utf-8"), str(path))
        assert store.folder_of(path.name) == path.parent.name
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
    assert store.folder_of(name) == folder


@pytest.mark.parametrize(
    "name", ["elife.json", "elife_v1", "../elife_v1.json", "a/b_v1.json", "_v1.json", "a_...json"]
)
def test_what_is_no_name_of_a_file(name):
    with pytest.raises(InvalidCorrection, match="NAME_VERSION.json"):
        store.folder_of(name)


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
        (lookup.merged(one), runs_of(one)),
        (lookup.common(one, other), runs_of(one) & runs_of(other)),
        (lookup.without(one, other), runs_of(one) - runs_of(other)),
    ):
        assert runs_of(found) == expected
        # Sorted, and with a gap between each two
        assert all(a[1] + 1 < b[0] for a, b in zip(found, found[1:], strict=False))


def test_sets_of_runs_as_text():
    assert lookup.as_text([(1, 1), (3, 4), (7, math.inf)]) == "000001, 000003-000004, 000007-*"
    assert lookup.as_text([]) == "none"


numbers_or_not = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


def leaves(value):
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


@given(numbers_or_not)
@PROPERTY
def test_what_is_read_has_finite_numbers_alone(value):
    try:
        content = store.parse(json.dumps({"000001": value}), "here")
    except InvalidCorrection as error:
        assert "here, line 1" in str(error)
    else:
        assert content == {"000001": value}
        assert all(math.isfinite(v) for v in leaves(value) if isinstance(v, float))


@given(st.text(max_size=30))
@PROPERTY
def test_no_text_does_anything_but_fail_cleanly_or_work(text):
    try:
        content = store.parse(text, "here")
        lookup.find(lookup.entries(content, "a_dev.json"), 3, "here")
    except AmstraxError as error:
        assert "here" in str(error) or "a_dev.json" in str(error)


def test_frozen_values_have_no_lists_and_are_the_same():
    value = [1, [2.5, {"a": [None, [True]], "b": "c"}], []]
    frozen = strict_json.with_tuples(value)
    assert frozen == (1, (2.5, {"a": (None, (True,)), "b": "c"}), ())
    assert json.dumps(frozen) == json.dumps(value)
