"""The command amstrax campaign: options, plans and lists, without jobs."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from make_campaigns import TARGET, lab  # noqa: F401
from make_jobs import LED, SHORT, add_run

from amstrax import cli
from amstrax.rundb import campaigns, documents, get_mongo_collection, leases


def campaign(*arguments):
    """Run a subcommand, and return its exit status."""
    return cli.main(["campaign", *map(str, arguments)])


def plan(name, *arguments, target=TARGET):
    """Plan a campaign, and return the exit status."""
    return campaign(name, "plan", *arguments, "--target", target)


def store():
    return campaigns.get_collection()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["c1", "start"],
        ["list", "plan"],
        ["plan"],
        ["run", "--max_jobs", "3"],
        ["plan", "1", "--target", "peaks"],
        ["c1", "run", "--max_jobs", "0"],
        ["c1", "run", "--keep_free", "-1"],
        ["c1", "plan", "--query", "{"],
        ["c1", "plan", "--context", "xms"],
        ["c1", "report", "--state", "lost"],
        ["c1", "retry", "abc"],
    ],
    ids=" ".join,
)
def test_wrong_options(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        campaign(*arguments)
    assert end.value.code == 2
    assert "usage: amstrax campaign" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1st", "plan", "1"], "is no name of a campaign"),
        (["../c", "run"], "is no name of a campaign"),
        (["c1", "plan"], "no runs: name some"),
        (["c1", "plan", "1-x"], "is no range of runs"),
        (["c1", "plan", "7"], "none of the runs is in the run database"),
        (["c1", "plan", "1", "--target", "peeks"], "did you mean peaks"),
        (["c1", "plan", "1", "--corrections_version", "v9"], "v9"),
        (["c1", "plan", "1", "--query", '{"$x": 1}'], "$x"),
        (["c1", "plan", "1", "--trend_limit", "noise_1=1:"], "needs --trends"),
        (["c1", "--query", '{"$x": 1}'], "$x"),
        (["c1", "7"], "none of the runs is in the run database"),
        (["c1", "run"], "no campaign 'c1': there are none"),
        (["c1"], "no campaign 'c1': there are none"),
        (["c1", "pause"], "no campaign 'c1'"),
        (["c1", "retry"], "no campaign 'c1'"),
        (["c1", "report"], "no campaign 'c1'"),
        (["c1", "old-data"], "no campaign 'c1'"),
        (["c1", "remove", "--yes"], "no campaign 'c1'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(lab, arguments, message, capsys):  # noqa: F811
    lab.add_run(1)
    assert campaign(*arguments) in (1, 2)
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert store().count_documents({}) == 0


@pytest.mark.parametrize("words", ["--debug c1 7", "c1 --debug 7", "--debug c1 plan 7", "c1 run"])
def test_debug_may_be_anywhere(lab, words, capsys):  # noqa: F811
    lab.add_run(1)
    assert campaign(*words.split()) == 2
    assert ("Traceback" in capsys.readouterr().err) == ("--debug" in words)


def test_a_campaign_needs_a_folder_for_data(lab, monkeypatch, capsys):  # noqa: F811
    lab.add_run(1)
    monkeypatch.delenv("XAMS_PROCESSED_DATA")
    assert plan("c1", "1") == 2
    assert "give --output_folder, or set XAMS_PROCESSED_DATA" in capsys.readouterr().err
    assert campaign("c1", "plan", "1", "--output_folder", "here", "--target", TARGET) == 0
    assert campaigns.find(store(), "c1").places == (str(lab.folder / "here"),) * 2
    options = json.loads(campaigns.find(store(), "c1").options)
    assert options["output_folder"] == str(lab.folder / "here")


def test_a_plan_says_what_is_assumed_and_changes_no_run(lab, capsys):  # noqa: F811
    for number in (1, 2):
        lab.add_run(number)
    before = list(lab.runs.find({}))
    assert plan("c1", "1-2", "--dry_run") == 0
    said = capsys.readouterr().out
    assert "processor time is assumed, since no run has these targets yet" in said
    assert "disk: assumed for raw_records" in said and "dry run: nothing is kept" in said
    assert store().count_documents({}) == 0
    assert plan("c1", "1-2") == 0
    assert list(lab.runs.find({})) == before
    found = campaigns.find(store(), "c1")
    # Measured: the size of the live data
    size = sum(path.stat().st_size for path in (lab.live / "000001").glob("*/*")) / 1e6
    assert found.mb == pytest.approx((size, size), abs=1e-3)
    assert found.seconds == pytest.approx(2 * (0.1 * size + 1), rel=1e-3)
    assert plan("c1", "1") == 2
    assert "campaign c1 exists" in capsys.readouterr().err


def test_rates_come_from_runs_that_are_done(lab, capsys):  # noqa: F811
    lab.add_run(1)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for number, seconds in ((2, 10), (3, 30), (4, 20)):
        history = [
            {"action": f"process_run_{word}", "status": status, "time": time, "targets": [TARGET]}
            for word, status, time in (
                ("start", "running", begin),
                ("end", "done", begin + timedelta(seconds=seconds)),
            )
        ]
        sizes = {"live": 50.0, TARGET: 40.0, "raw_records_ext": 5.0, "raw_records_sipm": 5.0}
        data = [
            {"type": kind, "host": "x", "location": "/x", "lineage_hash": "y", "size_mb": size}
            for kind, size in sizes.items()
        ]
        job = {"context": "xams", "targets": [TARGET]}
        lab.add_run(number, processing_history=history, data=data, processing_job=job)
        documents.set_status(lab.runs, number, "done")
    (lab.live / "000001").unlink()
    place = {"type": "live", "host": documents.this_host(), "location": str(lab.live)}
    documents.add_data(lab.runs, 1, place | {"size_mb": 100.0})
    (lab.live / "000001").mkdir()
    assert plan("c1", "1") == 0
    said = capsys.readouterr().out
    # 20 s for 50 MB
    assert "processor time: 0.4 s/MB, measured on 3 runs with these targets" in said
    assert "disk: measured on 3 runs or more for raw_records, raw_records_ext" in said
    found = campaigns.find(store(), "c1")
    assert found.seconds == pytest.approx(40)
    assert found.disk_mb == pytest.approx((100,))


def test_too_little_space_is_said(lab, capsys):  # noqa: F811
    lab.add_run(1)
    place = {"type": "live", "host": documents.this_host(), "location": str(lab.live)}
    documents.add_data(lab.runs, 1, place | {"size_mb": 1e12})
    assert plan("c1", "1") == 0
    assert "free some, or submission waits for space" in capsys.readouterr().err


def test_led_runs_get_their_own_targets(lab, live_runs, capsys):  # noqa: F811
    lab.add_run(1)
    add_run(lab.runs, live_runs, LED)
    (lab.live / LED).symlink_to(live_runs / LED)
    assert plan("c1", "1", LED, "--run_id", SHORT, target="peaks") == 0
    found = campaigns.find(store(), "c1")
    assert found.runs == ("000001", LED)
    assert [kind.context for kind in found.kinds] == ["xams", "xams_led"]
    assert found.kind(LED).targets == ("raw_records", "records_led", "led_calibration")
    assert set(found.kind(LED).hashes) >= set(found.kind(LED).targets)
    said = capsys.readouterr().out
    assert "peaks (xams, 1 runs); raw_records, records_led, led_calibration" in said
    assert f"left out: {SHORT}" in said


def test_options_in_a_run_document_change_the_lineage(lab):  # noqa: F811
    for number in (1, 2, 3):
        own = {"strax_defaults": {"s1_min_area": 9.0}} if number == 2 else {}
        lab.add_run(number, **own)
    assert plan("c1", "1-3", target="peaks") == 0
    found = campaigns.find(store(), "c1")
    assert found.kind("000001") == found.kind("000003")
    assert len({found.kind_of_run[i] for i in range(3)}) == len(found.kinds)


def test_an_invalid_run_does_not_stop_the_plan(lab, capsys):  # noqa: F811
    lab.add_run(1)
    lab.add_run(2, strax_defaults=7)
    assert plan("c1", "1-2") == 0
    assert "run 000002: " in capsys.readouterr().out
    assert campaigns.find(store(), "c1").runs == ("000001", "000002")


def test_runs_by_query_newest_first(lab):  # noqa: F811
    for number, mode in ((1, "a"), (2, "b"), (3, "a")):
        lab.add_run(number, mode=mode)
    assert plan("c1", "--mode", "a") == 0
    assert campaigns.find(store(), "c1").runs == ("000003", "000001")
    assert plan("c2", "--query", '{"number": {"$gte": 2}}', "--status", "pending") == 0
    assert campaigns.find(store(), "c2").runs == ("000003", "000002")


def test_lists_states_and_removal(lab, capsys):  # noqa: F811
    lab.add_run(1)
    assert campaign("list") == 0
    assert capsys.readouterr().out.split("\n")[0].split()[0] == "campaign"
    assert plan("c1", "1") == 0
    assert campaign("c1", "pause") == 0
    capsys.readouterr()
    assert campaign("list") == 0
    [_, row] = capsys.readouterr().out.strip().split("\n")
    assert row.split()[0] == "c1" and row.split()[-1] == "paused"
    assert campaign("c1", "status") == 0
    said = capsys.readouterr().out
    assert "paused by" in said and "nobody submits" in said and "0 of 1 runs done" in said
    assert campaign("c1", "resume") == 0
    assert campaign("c1", "report", "--state", "failed") == 0
    assert "000001" not in capsys.readouterr().out
    assert campaign("c1", "remove") == 2
    assert store().count_documents({}) == 1
    assert campaign("c1", "remove", "--yes") == 0
    assert '"_id": "c1"' in capsys.readouterr().out
    assert store().count_documents({}) == 0 and lab.runs.count_documents({}) == 1


def test_an_invalid_campaign_can_be_removed(lab, capsys):  # noqa: F811
    lab.add_run(1)
    assert plan("c1", "1") == 0
    store().update_one({"name": "c1"}, {"$unset": {"mb": 1}})
    assert campaign("c1", "status") == 1
    assert "remove the campaign, and plan it again" in capsys.readouterr().err
    assert campaign("c1", "remove", "--yes") == 0
    assert '"_id": "c1"' in capsys.readouterr().out
    assert store().count_documents({}) == 0


def test_files_of_reports(lab, capsys):  # noqa: F811
    """Their folder is made; an error names the file that was asked for."""
    lab.add_run(1)
    assert plan("c1", "1") == 0
    for name in ("report", "old-data"):
        file = lab.folder / "of" / name
        assert campaign("c1", name, "--output", file) == 0
        assert file.exists()
        capsys.readouterr()
        assert campaign("c1", name, "--output", lab.folder / "of") == 1
        said = capsys.readouterr().err
        assert f"'{lab.folder / 'of'}'" in said and "/." not in said
    assert campaign("c2", "plan", "1", "--output_folder", lab.folder / "of" / "report" / "x") == 1
    assert "--output_folder" in capsys.readouterr().err


def test_retry_leaves_claimed_runs_and_those_of_others(lab, capsys):  # noqa: F811
    for number in (1, 2, 3):
        lab.add_run(number)
    assert plan("c1", "1-2", "--max_failures", "1") == 0
    for number in (1, 2):
        documents.record_failure(lab.runs, number, "because", f"a{number}")
    claim = {"owner": "x/y", "expires": datetime.now(UTC) + timedelta(hours=1)}
    lab.runs.update_one({"number": 2}, {"$set": {"processing_claim": claim}})
    capsys.readouterr()
    assert campaign("c1", "retry") == 0
    said = capsys.readouterr().err
    assert "1 runs are to be submitted again: 000001" in said
    assert "1 runs are left alone, since a process has them: 000002" in said
    assert [lab.status(number) for number in (1, 2, 3)] == ["pending", "failed", "pending"]
    assert "retry of campaign c1" in documents.status_of(lab.document(1)).reason
    assert campaign("c1", "retry", "1") == 0
    lab.runs.delete_one({"number": 1})
    documents.set_status(lab.runs, 2, "done")
    assert campaign("c1", "retry", "1", "2") == 0
    said = capsys.readouterr().err
    assert "left alone, since they are no longer in the run database: 000001" in said
    assert "left alone, since they are 'failed'" not in said
    assert campaign("c1", "retry", "3") == 2
    assert "run 000003 is not in campaign c1" in capsys.readouterr().err


def test_retry_leaves_a_run_that_is_claimed_meanwhile(lab, monkeypatch, capsys):  # noqa: F811
    lab.add_run(1)
    assert plan("c1", "1", "--max_failures", "1") == 0
    documents.record_failure(lab.runs, 1, "because", "a1")
    is_held = leases.is_held

    def held_a_moment_later(document, now):
        result = is_held(document, now)
        assert leases.claim(lab.runs, "000001", "x/y")
        return result

    monkeypatch.setattr(leases, "is_held", held_a_moment_later)
    assert campaign("c1", "retry") == 0
    assert "1 runs are left alone, since a process has them: 000001" in capsys.readouterr().err
    assert lab.status(1) == "failed"


def test_both_detectors_are_in_one_list(lab, live_runs, monkeypatch, capsys):  # noqa: F811
    lab.add_run(1)
    add_run(get_mongo_collection("xamsl"), live_runs, "000304")
    monkeypatch.setenv("XAMSL_LIVE_DATA", str(live_runs))
    monkeypatch.setenv("XAMSL_PROCESSED_DATA", str(lab.processed))
    assert plan("c1", "1") == 0
    assert plan("c2", "304", target="raw_records_v1730") == 0
    assert plan("c2", "304", target="raw_records_v1730") == 2
    capsys.readouterr()
    assert campaign("list") == 0
    said = capsys.readouterr().out
    assert " xams " in said and " xamsl " in said
