"""`amstrax trends`: rows of runs in both stores, limits, files, plots, and rows made by jobs."""

import json

import numpy as np
import pandas as pd
import pytest
import strax
from make_jobs import LED, SHORT, add_run
from rundb_stores import collection  # noqa: F401

from amstrax import cli, contexts
from amstrax.auto_processing import process_run, submitting
from amstrax.auto_processing import trends as measuring
from amstrax.commands import base, trends
from amstrax.rundb import connection, documents
from amstrax.rundb.connection import get_trends_collection


@pytest.fixture(scope="module")
def processed(live_runs, tmp_path_factory):
    """Folder for data, which the first test fills."""
    return tmp_path_factory.mktemp("processed")


def arguments(live, out, *run_ids, context="xams"):
    documents_ = [str(live / f"rundoc_{run_id}.json") for run_id in run_ids]
    return [
        *run_ids,
        *("--testing_rundoc", *documents_),
        f"--context={context}",
        f"--output_folder={out}",
        f"--live_data_dir={live}",
        '--context_kwargs={"init_rundb": false}',
        "--no-progress",
    ]


@pytest.fixture
def store(collection):  # noqa: F811
    """Empty collection of trends, in the same store as run documents."""
    found = get_trends_collection("xams")
    found.delete_many({})
    return found


def test_rows(live_runs, processed, collection, store, tmp_path, capsys):  # noqa: F811
    """Of a run with data, and one that fails: neither stops the other, nor changes documents."""
    add_run(collection, live_runs)
    before = list(collection.find({}))
    missing = tmp_path / "rundoc_000399.json"
    text = (live_runs / f"rundoc_{SHORT}.json").read_text().replace(SHORT, "000399")
    missing.write_text(text.replace('"number": 303', '"number": 399'))
    words = arguments(live_runs, processed, SHORT)
    words[:3] = ["000399", SHORT, "--testing_rundoc", str(missing), words[2]]
    csv, parquet = tmp_path / "trends.csv", tmp_path / "trends.parquet"
    limits = ["--limit", "s1_rate=:0.001", "--limit", '{"baseline": [100, null]}']
    files = [f"--output={csv}", f"--plot={tmp_path / 'trends.png'}"]
    assert cli.main(["trends", *words, *limits, *files]) == 1
    said = capsys.readouterr()
    assert "run 000303 is flagged: s1_rate" in said.err and "000399" in said.out
    failed, row = connection.read_trends(store)[::-1]
    assert failed["name"] == "000399" and failed["error"] and failed["values"] == {}
    assert row["error"] is None and len(row["flags"]) == 1
    assert list(collection.find({})) == before
    # The numbers are those of the data
    st = contexts.xams(output_folder=processed, init_rundb=False)
    st.set_run_document(SHORT, json.loads((live_runs / f"rundoc_{SHORT}.json").read_text()))
    types = st.get_array(SHORT, "peak_basics", progress_bar=False)["type"]
    raw = st.get_array(SHORT, "raw_records", progress_bar=False)
    values, seconds = row["values"], row["values"]["livetime"]
    assert seconds == pytest.approx(st.livetime(SHORT)["live"].min() / 1e9)
    assert values["s2_rate"] * seconds == pytest.approx((types == 2).sum()) and 2 in types
    assert values["event_rate"] > 0
    first = raw[(raw["channel"] == 1) & (raw["record_i"] == 0)]
    assert values["pulse_rate_1"] * seconds == pytest.approx(len(first))
    assert values["baseline_1"] == pytest.approx(np.median(first["data"][:, :20].mean(axis=1)))
    assert values["gain_1"] * values["pulse_rate_1"] > 0 and values["pe_rate_1"] > 0
    assert "elife" not in values and "too few" in row["reasons"]["elife"]
    table = pd.read_csv(csv, dtype={"run_id": str})
    assert table["run_id"].tolist() == ["000399", SHORT] and np.isnan(table["elife"]).all()
    assert table["s2_rate"][1] == pytest.approx(values["s2_rate"])
    assert (tmp_path / "trends.png").read_bytes().startswith(b"\x89PNG")

    # Again: one row a run and lineage
    assert trends.main([*words, *limits]) == 1
    assert store.count_documents({}) == 2
    options = ["--energy=41.5", "--only_stored_data", f"--output={parquet}"]
    assert trends.main([*arguments(live_runs, processed, SHORT), *options]) == 0
    assert store.count_documents({"name": SHORT}) == 2
    assert len(pd.read_parquet(parquet)) == 1

    capsys.readouterr()
    assert trends.main(["--flagged", "--no-progress"]) == 0
    said = capsys.readouterr().out
    assert "above 0.001 Hz" in said and "000399" in said
    assert trends.main(["--stored", "000399", "--no-progress"]) == 0
    assert SHORT not in capsys.readouterr().out
    table = st.trends()
    assert len(table) == 3 and table["start"].notna().sum() == 2
    figure = st.plot_trends(quantities=["s1_rate", "baseline", "noise_1", "elife"])
    assert [axes.get_ylabel() for axes in figure.axes[:4]] == [
        *("s1_rate [Hz]", "baseline [ADC counts]", "noise_1 [ADC counts]", "elife [ns]"),
    ]
    with pytest.raises(ValueError, match="did you mean s1_rate"):
        st.plot_trends(quantities="s1_rat")


def test_failed_run_that_works_later(store):
    row = measuring.make_row(SHORT, measuring.TrendOptions("xams", "xams"), error="no disk")
    connection.save_trend(store, row)
    connection.save_trend(store, row)
    assert [r["error"] for r in connection.read_trends(store, flagged=True)] == ["no disk"]
    connection.save_trend(store, row | {"lineage": "abc", "error": None, "is_flagged": False})
    assert [r["lineage"] for r in connection.read_trends(store)] == ["abc"]
    assert connection.read_trends(store, ["000001"]) == []
    assert connection.read_trends(store, flagged=True) == []


def test_led_run(live_runs, tmp_path, runs):
    """Its gains are those that it measures."""
    words = arguments(live_runs, tmp_path, LED, context="xams_led")
    assert trends.main(words) in (0, 1)
    [row] = connection.read_trends(get_trends_collection())
    assert row["error"] is None and "s1_rate" not in row["values"]
    gains = [v for name, v in row["values"].items() if name.startswith("gain_")]
    assert gains or any(name.startswith("gain_") for name in row["reasons"])
    assert all(0.001 < gain < 1 for gain in gains)


def test_row_of_a_job(live_runs, tmp_path, runs, monkeypatch, capsys):
    add_run(runs, live_runs)
    words = [SHORT, "--target", "peak_basics", f"--live_data_dir={live_runs}"]
    words += [f"--output_folder={tmp_path}", "--no-progress"]
    limit = ["--trends", '--trend_limit={"s2_rate": [null, 0.01]}']
    assert process_run.main([*words, *limit]) == 0
    [row] = connection.read_trends(get_trends_collection())
    assert row["name"] == SHORT and row["error"] is None and "s2_rate" in row["flags"][0]
    assert row["reasons"]["single_electrons"] == "not stored"
    assert "run 000303 is flagged" in capsys.readouterr().err

    def fail(*args):
        raise OSError("no disk")

    monkeypatch.setattr(measuring, "row_of", fail)
    documents.set_status(runs, SHORT, "pending")
    assert process_run.main([*words, "--trends"]) == 0
    assert documents.status_of(documents.find_run(runs, SHORT)).status == "done"
    assert "has no row of trends (no disk)" in capsys.readouterr().err


def test_options_of_jobs(tmp_path, capsys):
    from amstrax.auto_processing import auto_processing

    words = ["--target=event_info", "--trends", "--trend_limit=s1_rate=1:20"]
    template = submitting.find_work(auto_processing.parse_args(words))
    given = process_run.parse_args(["000303", *template.options_for(template.plan)[0]])
    assert given.trends and given.trend_limit == {"s1_rate": (1, 20)}
    assert auto_processing.main([words[0], words[2], "--once", f"--log_folder={tmp_path}"]) == 2
    assert "needs --trends" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give runs, or --flagged"),
        (["1", "--limit=s1_rat=1:2"], "did you mean s1_rate"),
        (["1", "--limit=s1_rate=2:1"], "no lowest and highest"),
        (["1", "--limit=s1_rate=a:b"], "write NAME=LOW:HIGH"),
        (["1", '--limit={"s1_rate": 3}'], "no lowest and highest"),
        (["1", "--output=a.txt"], ".csv or .parquet"),
        (["1", "1"], "given twice"),
        (["1", "--detector=xamsl", "--context=xams"], "is of xams"),
    ],
)
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        trends.parse_args(words)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_limits_in_a_file(tmp_path):
    path = tmp_path / "limits.json"
    path.write_text('{"s1_rate": [1, 20], "baseline_3": [null, 100]}')
    assert base.trend_limits(str(path)) == {"s1_rate": (1, 20), "baseline_3": (None, 100)}
    assert base.trend_limits("gain=0.01:") == {"gain": (0.01, None)}


def test_nothing_is_stored(tmp_path):
    st = contexts.xams(storage=[strax.DataDirectory(str(tmp_path))])
    row = measuring.row_of(st, SHORT, measuring.TrendOptions("xams", "xams"))
    assert "is stored" in row["error"] and row["is_flagged"] and row["lineage"] == ""
