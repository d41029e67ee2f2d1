"""The scripts of the lab's dashboard and start scripts, driven and read as these do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_jobs import LED, SHORT, add_run, wait

from amstrax import contexts
from amstrax.auto_processing import engines, process_run
from amstrax.auto_processing_new import auto_processing as entry
from amstrax.auto_processing_new import offline_processing, process
from amstrax.exceptions import RunDatabaseUnreachable
from amstrax.rundb import documents, leases

SCRIPTS = Path(entry.__file__).parent
LINES = {
    "submitted": " submitted successfully",
    "busy": "Too many jobs running (",
    "dry run": "Would have submitted job for run",
    "failed": "Error submitting job: ",
}


def submit(folder, *options, run_id=SHORT):
    """Submit as xams-dashboard does, and return what it makes of the output, and that."""
    command = [sys.executable, "auto_processing.py", "--run_id", run_id]
    command += ["--target", "raw_records", "peak_basics", "--output_folder", folder / "out 1"]
    command += ["--logs_path", folder / "logs", "--max_jobs", "25", "--mem", "8000"]
    done = subprocess.run(
        [*map(str, command), "--queue", "short", *options],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    text = done.stdout + done.stderr
    # The first that is found, whatever the exit status
    return next((state for state, line in LINES.items() if line in text), "none"), text


def targets_of(document):
    return {
        name: (target["status"], target["reason"])
        for name, target in document["processing_status"]["targets"].items()
    }


@pytest.mark.slow
def test_run_that_the_dashboard_submits(runs, live_runs, tmp_path):
    add_run(runs, live_runs)
    state, text = submit(tmp_path)
    assert state == "dry run", text
    assert "processing_job" not in documents.find_run(runs, SHORT)
    assert not (tmp_path / "logs").exists()

    config = '--set_config_kwargs={"elife": 20000, "n_tpc_pmts": 5}'
    state, text = submit(tmp_path, "--production", config, f"--amstrax_path={SCRIPTS.parents[1]}")
    assert state == "submitted", text
    job = documents.job_of(documents.find_run(runs, SHORT))
    assert f"Job {job['name']} submitted successfully" in text
    engine = engines.get("local")
    wait(lambda: not engine.state(job["job_id"]).alive)
    scripts, logs = (list((tmp_path / "logs").glob(f"*{SHORT}*{end}")) for end in (".sh", ".out"))
    assert len(scripts) == len(logs) == 1
    document = documents.find_run(runs, SHORT)
    assert documents.status_of(document).status == "done", logs[0].read_text()

    # As the dashboard reads it
    assert targets_of(document) == dict.fromkeys(("raw_records", "peak_basics"), ("done", None))
    done = [(e["action"], e["status"]) for e in document["processing_history"]]
    assert done[0] == ("process_run_start", "running") and done[-1] == ("process_run_end", "done")
    assert set(done[1:-1]) == {("target_raw_records", "done"), ("target_peak_basics", "done")}
    st = contexts.xams(output_folder=tmp_path / "out 1", init_rundb=False)
    st.set_config({"elife": 20000})
    st.set_run_document(SHORT, document)
    for data_type in ("raw_records", "peak_basics"):
        (made,) = documents.data_of(document, type=data_type)
        key = st.key_for(SHORT, data_type)
        assert made["lineage_hash"] == key.lineage_hash
        assert (Path(made["location"]) / str(key)).is_dir()
        assert made["is_online"] is False and made["corrections_version"] is None
        assert made["amstrax_path"] == str(SCRIPTS.parents[1])
        assert made["n_chunks"] == 1 and made["size_mb"] > 0 and made["updated_at"]


def test_what_the_dashboard_tries_again_or_reports(runs, live_runs, tmp_path, capsys, monkeypatch):
    def said(*options, run_id=SHORT):
        arguments = ["--run_id", run_id, f"--logs_path={tmp_path}", *options]
        status = entry.main(arguments)
        return status, capsys.readouterr().out.strip()

    add_run(runs, live_runs)
    status, text = said(run_id="000999")
    assert status == 1 and text.startswith("Error submitting job: run 000999 is not in the run")
    monkeypatch.setattr(entry, "count_jobs", lambda *_: 3)
    assert said("--max_jobs=3", "--production") == (1, "Too many jobs running (3/3)")
    status, text = said('--set_context_kwargs={"storage": []}')
    assert status == 2 and text.startswith("Error submitting job: --set_context_kwargs names")
    assert "--set_config_kwargs" in text
    status, text = said(f"--amstrax_path={tmp_path}")
    assert status == 2 and "no amstrax 3 there" in text
    (tmp_path / "file").touch()
    status, text = said("--production", f"--logs_path={tmp_path}/file")
    assert status == 1 and text.startswith("Error submitting job: the script or the log")
    assert text.endswith("see --logs_path")
    with leases.RunClaim(runs, SHORT, "somebody", leases.Stop()):
        status, text = said("--production")
    assert status == 1 and text.startswith(f"Error submitting job: run {SHORT} is busy (")
    # Another job may be the one that is at work
    assert "amstrax-xams" not in text

    def unreachable(*_):
        raise RunDatabaseUnreachable("no answer\nfrom mongo")

    monkeypatch.setattr(entry, "count_jobs", unreachable)
    assert said("--production") == (1, "Error submitting job: no answer from mongo")


def test_many_runs_offline(runs, live_runs, tmp_path, capsys):
    add_run(runs, live_runs)
    add_run(runs, live_runs, LED)
    assert offline_processing.main(["--run_id", SHORT, LED, f"--logs_path={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"for run {SHORT}\n" in said and f"for run {LED}\n" in said
    assert "--context=xams_led" in said


def test_loop_without_production_is_a_dry_run(runs, live_runs, tmp_path, capsys):
    add_run(runs, live_runs)
    assert entry.main(["--min_run_number=1", f"--logs_path={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "--is_online" in said and f" {SHORT} " in said
    assert "processing_job" not in documents.find_run(runs, SHORT)
    assert entry.main([f"--logs_path={tmp_path}"]) == 0
    assert "nothing would be submitted" in capsys.readouterr().out


def test_process(runs, live_runs, tmp_path):
    add_run(runs, live_runs, mode="ar", processing_status="pending")

    def processed(*options):
        common = ["--run_id", SHORT, f"--output_folder={tmp_path / 'out'}"]
        return process.main([*common, *options])

    before = documents.find_run(runs, SHORT)
    target = ["--target", "peak_basics", "raw_records"]
    assert processed(*target) == 2
    assert processed("--target", "peak_basics") == 0
    assert documents.find_run(runs, SHORT) == before

    with leases.RunClaim(runs, SHORT, "somebody", leases.Stop()):
        assert processed(*target, "--production") == 2
    assert documents.find_run(runs, SHORT) == before
    assert processed(*target, "--production") == 2
    document = documents.find_run(runs, SHORT)
    assert targets_of(document) == {"raw_records": ("failed", process.NO_RAW_RECORDS)}
    assert documents.status_of(document).status == "pending"

    # Without --is_online the run's own status stays; what is stored is not made again
    options = ["--allow_raw_records", "--production", f"--live_data_dir={tmp_path / 'nothing'}"]
    assert processed(*target, *options) == 0
    document = documents.find_run(runs, SHORT)
    assert documents.status_of(document).status == "pending"
    history = document["processing_history"]
    assert ("skipped", "already stored") in [(e["status"], e.get("reason")) for e in history]
    assert len(documents.data_of(document, type="peak_basics")) == 1
    assert processed(*target, *options, "--is_online") == 0
    document = documents.find_run(runs, SHORT)
    assert targets_of(document) == dict.fromkeys(target[1:], ("skipped", "already stored"))
    assert documents.status_of(document).status == "done"
    assert len(documents.data_of(document, type="peak_basics")) == 1


def test_failed_raw_data(runs, live_runs, tmp_path):
    add_run(runs, live_runs)
    options = ["--production", "--allow_raw_records", f"--live_data_dir={tmp_path / 'nothing'}"]
    options += ["--is_online", f"--output_folder={tmp_path / 'out'}"]
    assert process.main(["--run_id", SHORT, *options, "--target", "peaks", "raw_records"]) == 1
    document = documents.find_run(runs, SHORT)
    targets = targets_of(document)
    assert targets["raw_records"][0] == "failed"
    assert targets["peaks"] == (
        "skipped",
        "raw_records stage failed; derived targets skipped",
    )
    assert documents.failures_of(document) == 1
    assert document["processing_status"]["reason"] == targets["raw_records"][1]
    actions = [e["action"] for e in document["processing_history"]]
    assert actions[-2:] == ["derived_targets_skipped", "process_run_end"]


BOARDS = {"channels": {"7": [0, 1, 2, 3, 4, 5, 6, -1]}}


def mask(value):
    return {"daq_config": BOARDS | {"registers": [{"reg": "8120", "board": 7, "val": value}]}}


@pytest.mark.parametrize(
    ("document", "targets"),
    [
        ({"mode": "led"}, process_run.LED_TARGETS),
        ({"xams_bookkeeping": {"run_class": "LED"}}, process_run.LED_TARGETS),
        ({"mode": "led", "xams_bookkeeping": {"run_class": "science"}}, ("peaks",)),
        (mask("20"), ("peaks", "peak_basics_ext")),
        (mask("1f") | {"mode": "x_nai"}, ("peaks",)),
        ({"mode": "x_nai"}, ("peaks", "peak_basics_ext")),
        (
            {"xams_bookkeeping": {"channel_map": {"bottom": [0, 0], "external": [5, 5]}}},
            ("peaks", "peak_basics_ext"),
        ),
        ({"xams_bookkeeping": {"source_type": "na22"}}, ("peaks",)),
    ],
)
def test_targets_of_a_run_by_its_document(document, targets):
    plan = process_run.Plan(("peaks",), "xams", "xams", ("raw_records",))
    assert process_run.plan_of_run(plan, document).targets == targets


def test_fixed_targets(runs, live_runs, tmp_path):
    add_run(runs, live_runs, LED)
    given = [LED, "--fix_targets", "--target", "raw_records", f"--output_folder={tmp_path}"]
    assert process_run.main([*given, "--no-progress"]) == 0
    assert list(targets_of(documents.find_run(runs, LED))) == ["raw_records"]


@pytest.mark.parametrize("name", ["auto_processing", "process", "offline_processing"])
def test_help_as_module(name):
    module = [sys.executable, "-m", f"amstrax.auto_processing_new.{name}", "--help"]
    assert subprocess.run(module, capture_output=True, check=False, env=os.environ).returncode == 0
