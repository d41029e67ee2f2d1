"""Adding ranges to correction files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.corrections import lookup
from amstrax.exceptions import InvalidCorrection

FILE = "elife_v1.json"


def entry(first, last, value=1.0):
    return lookup.entry(f"{first:06d}-{last:06d}", value)


def add(path, new):
    lookup.write_entries(lookup.with_entry(lookup.read_entries(path), new, path), path)


def test_file_is_made_and_added_to(tmp_path):
    path = tmp_path / "elife" / FILE
    add(path, entry(100, 200, [1.5, 2]))
    add(path, entry(10, 20, [3, 4]))
    add(path, lookup.entry("000201", [5, 6]))
    assert path.read_text() == (
        '{\n    "000010-000020": [3, 4],\n    "000100-000200": [1.5, 2],\n    "000201": [5, 6]\n}\n'
    )
    assert [p.name for p in path.parent.iterdir()] == [FILE]
    entries = lookup.read_entries(path)
    assert lookup.value_before(entries, entry(150, 160)) == [3, 4]
    assert lookup.value_before(entries, entry(300, 310)) == [5, 6]
    assert lookup.value_before(entries, entry(1, 2)) is None


@pytest.mark.parametrize(
    "new", [(150, 300), (1, 100), (120, 130), (200, 200), (50, 500)], ids=lambda r: f"{r[0]}-{r[1]}"
)
def test_ranges_that_overlap_are_refused(tmp_path, new):
    path = tmp_path / FILE
    add(path, entry(100, 200))
    before = path.read_text()
    with pytest.raises(InvalidCorrection, match=f"{FILE} has a value for .*'000100-000200'"):
        add(path, entry(*new))
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"000100-000200" = 5}', "line 1, column 18"),
        ("[1, 2]", "no JSON object"),
        ('{"000100-000200": 5, "000150-000160": 6}', "'000100-000200' and '000150-000160' overlap"),
        ('{"one": 5}', "'one' is no range"),
    ],
    ids=["json", "list", "overlap", "range"],
)
def test_files_that_are_none_are_left_alone(tmp_path, text, message):
    path = tmp_path / FILE
    path.write_text(text)
    with pytest.raises(InvalidCorrection, match=message):
        add(path, entry(300, 310))
    assert path.read_text() == text


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], 2**64])
def test_numbers_that_nobody_could_read_are_not_written(tmp_path, value):
    path = tmp_path / FILE
    add(path, entry(100, 200))
    before = path.read_text()
    with pytest.raises(InvalidCorrection, match=f"{FILE}, the value of '000300-000310', line 1"):
        add(path, entry(300, 310, value))
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_name_of_the_file(tmp_path):
    with pytest.raises(InvalidCorrection, match="NAME_VERSION.json"):
        lookup.read_entries(tmp_path / "gains.txt")


def test_nothing_is_left_of_a_failed_write(tmp_path):
    path = tmp_path / FILE
    add(path, entry(100, 200))
    before = path.read_text()
    with pytest.raises(TypeError):
        lookup.write_entries([entry(1, 2, object())], path)
    (tmp_path / "elife_v2.json").mkdir()
    with pytest.raises(OSError):
        lookup.write_entries([entry(1, 2)], tmp_path / "elife_v2.json")
    assert path.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE, "elife_v2.json"]


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=12))
def test_any_order_of_additions_gives_one_table(tmp_path_factory, ranges):
    """What is accepted is sorted, has no overlap, and every run finds its value again."""
    path = tmp_path_factory.mktemp("edit") / FILE
    accepted = {}
    for i, (first, length) in enumerate(ranges):
        runs = set(range(first, first + length + 1))
        try:
            add(path, entry(first, first + length, i))
        except InvalidCorrection:
            assert runs & set(accepted)
        else:
            assert not runs & set(accepted)
            accepted |= dict.fromkeys(runs, i)
    entries = lookup.read_entries(path)
    assert entries == sorted(entries, key=lambda e: e.first)
    for run, value in accepted.items():
        assert lookup.find(entries, run, FILE).value == value
    if path.exists():
        assert len(json.loads(path.read_text())) == len(entries)
