"""The engine of this machine: processes that outlive their submitter."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from needs import need_all

from amstrax import settings
from amstrax.auto_processing import engines, loop
from amstrax.auto_processing.engines import base, local, local_runner
from amstrax.auto_processing.engines.local import LocalEngine
from amstrax.exceptions import EngineUnreachable, InvalidOption, JobRefused


@pytest.fixture
def engine(tmp_path):
    """An engine for two jobs at once; all jobs end with the test."""
    need_all("pidfd")
    engine = LocalEngine(tmp_path / "state", slots=2, grace=0.5)
    yield engine
    for job in engine.jobs():
        engine.cancel(job.job_id)
    wait(lambda: not engine.jobs())


def wait(condition):
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + 180
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def job(folder: Path, shell: str, run_id: str = "000123") -> base.Job:
    """Return a job that runs a line of bash."""
    script = folder / f"{run_id}.sh"
    base.write_script(script, ["bash", "-c", shell], {})
    log = folder / f"{run_id}.log"
    return base.Job(run_id, ("raw_records",), "xams", "xams", script, log, 100)


def ended(engine, job_id):
    """Return the state of a job, once it has ended."""
    return wait(lambda: None if (state := engine.state(job_id)).alive else state)


def started(engine, job_id) -> int:
    """Return the process id of a job, once it runs."""
    folder = engine.folder / "jobs" / job_id.partition("@")[0]
    return wait(lambda: local._read(folder / "started.json").get("pid"))


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runner_of(engine, job_id) -> int:
    folder = engine.folder / "jobs" / job_id.partition("@")[0]
    return wait(lambda: local._read(folder / "runner.json").get("pid"))


@pytest.mark.smoke
def test_a_job_from_submission_to_its_end(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SOMETHING", "of the environment")
    monkeypatch.chdir(tmp_path)
    given = job(
        tmp_path, 'echo "$SOMETHING in $PWD"; echo wrong >&2; until [ -e go ]; do sleep 0.02; done'
    )
    job_id = engine.submit(given)
    started(engine, job_id)
    assert engine.jobs() == [base.KnownJob(job_id, given.name, base.JobState("running"))]
    assert engine.find(given.name) and not engine.find(f"{given.name}2")
    (tmp_path / "go").touch()
    assert ended(engine, job_id) == base.JobState("done", 0)
    assert engine.jobs() == []
    # A second job appends to the log
    text = f"of the environment in {tmp_path}\nwrong\n"
    assert given.log.read_text() == text
    ended(engine, engine.submit(given))
    assert given.log.read_text() == 2 * text


@pytest.mark.parametrize(
    ("shell", "exit_code", "reason"),
    [
        ("exit 3", 3, "exit code 3"),
        ("exit 75", 75, "exit code 75"),
        ("kill -9 $$", None, "signal 9 (SIGKILL)"),
        ("kill -SEGV $$", None, "SIGSEGV"),
        ("kill -40 $$", None, "signal 40"),
    ],
)
def test_how_jobs_fail(shell, exit_code, reason, engine, tmp_path):
    state = ended(engine, engine.submit(job(tmp_path, shell)))
    assert state.state == "failed" and state.exit_code == exit_code
    assert reason in state.reason


@pytest.mark.parametrize("slots", [1, 3])
def test_so_many_at_once_and_in_order(slots, tmp_path):
    engine = LocalEngine(tmp_path / "state", slots)
    out = tmp_path / "out"
    # With several slots, each waits until two have run at once
    shell = f"echo + $0 >> {out}; "
    shell += f"until [ $(grep -c + {out}) -ge {min(slots, 2)} ]; do sleep 0.02; done; "
    shell += f"echo - $0 >> {out}"
    ids = [engine.submit(job(tmp_path, shell.replace("$0", str(i)), str(i))) for i in range(7)]
    assert len({*ids}) == 7
    alive = [known.job_id for known in engine.jobs()]
    assert alive == [job_id for job_id in ids if job_id in alive]
    wait(lambda: not engine.jobs())
    lines = [line.split() for line in out.read_text().splitlines()]
    begun = [int(i) for sign, i in lines if sign == "+"]
    # Concurrent jobs write in any order
    assert begun == list(range(7)) if slots == 1 else sorted(begun) == list(range(7))
    times = [
        local._read(engine.folder / "jobs" / str(i) / "started.json")["time"] for i in range(1, 8)
    ]
    assert times == sorted(times)
    running = most = 0
    for sign, _ in lines:
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert min(slots, 2) <= most <= slots


_SUBMIT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_engine_local import LocalEngine, job
print(LocalEngine(Path({state!r}), slots=1).submit(job(Path({folder!r}), {shell!r})), flush=True)
os.killpg(0, signal.SIGKILL)
"""


def test_jobs_outlive_a_submitter_that_is_killed(engine, tmp_path):
    """Even with all of its process group."""
    code = _SUBMIT.format(
        tests=[str(folder) for folder in Path(__file__).parents[:2]],
        state=str(tmp_path / "state"),
        folder=str(tmp_path),
        shell=f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 4",
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    [known] = engine.jobs()
    assert known.job_id == done.stdout.strip()
    (tmp_path / "go").touch()
    assert ended(engine, known.job_id).exit_code == 4


def test_a_job_that_is_killed(engine, tmp_path):
    job_id = engine.submit(job(tmp_path, "sleep 100 & wait"))
    pid = started(engine, job_id)
    [child] = wait(lambda: psutil.Process(pid).children())
    os.kill(pid, signal.SIGKILL)
    state = ended(engine, job_id)
    assert state.state == "failed" and state.exit_code is None
    assert "SIGKILL" in state.reason and "MB" in state.reason
    # Its children end with it
    wait(lambda: is_gone(child.pid))


@pytest.mark.parametrize("where", ["itself", "child", "daemon"])
def test_a_job_that_takes_too_much_memory(where, engine, tmp_path):
    """It is killed with all its processes, also those in another session."""
    code = "import time; x = bytearray(200_000_000); print('has it', flush=True); time.sleep(300)"
    hog = f'{sys.executable} -S -c "{code}"'
    shell = {"itself": f"exec {hog}", "child": f"{hog} & wait", "daemon": f"setsid {hog} & wait"}
    job_id = engine.submit(job(tmp_path, shell[where]))
    state = ended(engine, job_id)
    assert state[:2] == ("failed", None)
    used = int(re.search(r"killed, since it used (\d+) MB, more than the 100 MB", state.reason)[1])
    assert 100 < used < 300 and "--mem" in state.reason
    wait(lambda: not [p for p in psutil.process_iter(["cmdline"]) if code in str(p.info)])


def test_memory_that_is_shared_or_reserved_is_no_reason(engine, tmp_path):
    """Shared memory counts once, reserved memory does not count."""
    code = f"""
import mmap, os, pathlib, time
MAP_NORESERVE = 0x4000
shared = bytearray(60_000_000)
reserved = mmap.mmap(-1, 10**12, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
for _ in range(3):
    if os.fork() == 0:
        break
folder = pathlib.Path({str(tmp_path)!r})
while not (folder / 'go').exists():
    time.sleep(0.02)
"""
    (tmp_path / "code.py").write_text(code)
    job_id = engine.submit(job(tmp_path, f"exec {sys.executable} -S {tmp_path}/code.py"))
    pid = started(engine, job_id)
    wait(lambda: len(psutil.Process(pid).children()) == 3)
    # As the runner measures it, which then checks a few times
    assert sum(map(local_runner.memory_of, local_runner.members(pid))) < 100
    time.sleep(2 * local_runner.WATCH_EVERY)
    (tmp_path / "go").touch()
    assert ended(engine, job_id) == base.JobState("done", 0)


def test_a_job_whose_runner_is_killed_is_alive_until_it_ends(engine, tmp_path):
    shell = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    job_id = engine.submit(job(tmp_path, shell))
    started(engine, job_id)
    os.kill(runner_of(engine, job_id), signal.SIGKILL)
    state = wait(lambda: s if (s := engine.state(job_id)).reason else None)
    assert state == base.JobState("running", reason="its runner was killed")
    assert [known.job_id for known in engine.jobs()] == [job_id]
    # It keeps its slot
    others = [engine.submit(job(tmp_path, shell, str(i))) for i in range(2)]
    started(engine, others[0])
    assert engine.state(others[1]).state == "pending"
    (tmp_path / "go").touch()
    state = ended(engine, job_id)
    assert state.state == "gone" and "its exit status is unknown" in state.reason
    assert {ended(engine, other) for other in others} == {base.JobState("done", 0)}


def test_a_runner_that_is_killed_while_its_job_waits(engine, tmp_path):
    shell = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    ids = [engine.submit(job(tmp_path, shell, str(i))) for i in range(4)]
    for job_id in ids[:2]:
        started(engine, job_id)
    os.kill(runner_of(engine, ids[2]), signal.SIGKILL)
    state = ended(engine, ids[2])
    assert state.state == "gone" and "before it had begun" in state.reason
    assert engine.state(ids[3]).state == "pending"
    (tmp_path / "go").touch()
    assert ended(engine, ids[3]) == base.JobState("done", 0)


def test_cancel_a_job_that_waits(engine, tmp_path):
    out = tmp_path / "out"
    shell = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    ids = [engine.submit(job(tmp_path, shell, str(i))) for i in range(2)]
    ids += [engine.submit(job(tmp_path, f"echo {i} >> {out}", str(i))) for i in range(2, 5)]
    engine.cancel(ids[3])
    assert ended(engine, ids[3]) == base.JobState("failed", None, "cancelled")
    # Later jobs still wait for earlier ones
    assert [engine.state(job_id).state for job_id in ids[2:5:2]] == ["pending", "pending"]
    assert engine.state(ids[2]).reason
    (tmp_path / "go").touch()
    assert {ended(engine, job_id) for job_id in ids[2:5:2]} == {base.JobState("done", 0)}
    assert sorted(out.read_text().split()) == ["2", "4"]


def test_cancel_a_job_that_runs(engine, tmp_path):
    """It gets SIGTERM, and later SIGKILL."""
    polite = f"trap 'echo told > {tmp_path}/told; exit 7' TERM; sleep 100 & wait"
    stubborn = "trap '' TERM; while true; do sleep 0.02; done"
    patient = LocalEngine(tmp_path / "state", slots=2, grace=600)
    first = patient.submit(job(tmp_path, polite, "0"))
    second = engine.submit(job(tmp_path, stubborn, "1"))
    for job_id in (first, second):
        # After it has set its trap
        wait(lambda j=job_id: psutil.Process(started(engine, j)).children())
        engine.cancel(job_id)
    assert ended(engine, first) == base.JobState("failed", 7, "cancelled")
    assert (tmp_path / "told").read_text() == "told\n"
    assert ended(engine, second) == base.JobState("failed", None, "cancelled")
    engine.cancel(first)
    assert engine.state(first) == base.JobState("failed", 7, "cancelled")


def test_cancel_a_job_without_its_runner(engine, tmp_path):
    job_id = engine.submit(job(tmp_path, "trap '' TERM; while true; do sleep 0.02; done"))
    pid = started(engine, job_id)
    wait(lambda: psutil.Process(pid).children())
    os.kill(runner_of(engine, job_id), signal.SIGKILL)
    wait(lambda: engine.state(job_id).reason)
    engine.cancel(job_id)
    assert ended(engine, job_id).state == "gone"
    wait(lambda: is_gone(pid))
    engine.cancel("99@" + engine.host)


def test_after_the_machine_was_started_anew(engine, tmp_path):
    job_id = engine.submit(job(tmp_path, "sleep 100"))
    pid = started(engine, job_id)
    os.kill(runner_of(engine, job_id), signal.SIGKILL)
    os.killpg(pid, signal.SIGKILL)
    path = engine.folder / "jobs" / job_id.partition("@")[0] / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))
    state = ended(engine, job_id)
    assert state.state == "gone" and "restarted meanwhile" in state.reason


def test_a_number_that_is_another_process_now_is_let_alone(engine, tmp_path):
    job_id = engine.submit(job(tmp_path, "exit 0"))
    folder = engine.folder / "jobs" / job_id.partition("@")[0]
    wait(lambda: not local._is_locked(folder / "runner"))
    with subprocess.Popen(["sleep", "100"]) as other:
        for name in ("runner.json", "started.json"):
            (folder / name).write_text(json.dumps({"pid": other.pid}))
        engine.cancel(job_id)
        (folder / "exit.json").unlink()
        engine.cancel(job_id)
        assert other.poll() is None
        other.kill()


def test_what_cannot_be_submitted(engine, tmp_path):
    given = job(tmp_path, "exit 0")
    given.script.chmod(0o644 if os.getuid() else 0)
    with pytest.raises(JobRefused, match=r"000123.sh is missing or not executable"):
        engine.submit(given)
    given = job(tmp_path, "exit 0")
    nowhere = base.Job("1", ("peaks",), "xams", "xams", given.script, tmp_path / "no/log", 1)
    with pytest.raises(JobRefused, match=r"/no is missing or not writable"):
        engine.submit(nowhere)
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnreachable, match="AMSTRAX_LOCAL_FOLDER names another"):
        LocalEngine(tmp_path / "file").submit(given)
    assert engine.jobs() == []
    # A script for a missing program
    given.script.write_text("#!/no/such/program\n")
    state = ended(engine, engine.submit(given))
    assert state.state == "failed" and "cannot be started" in state.reason


def test_jobs_of_other_machines_are_not_known(engine):
    assert engine.state("1@" + engine.host) == base.JobState(
        "gone", reason="the local engine does not know it (any more)"
    )
    assert engine.state("1@elsewhere") == base.JobState(
        "unknown", reason="it was submitted on elsewhere"
    )
    for odd in ("", "1", "../1@" + engine.host, "9" * 300 + "@" + engine.host, "\0@x"):
        assert engine.state(odd).state == "gone"
        with pytest.raises(InvalidOption, match="is no id of a job"):
            engine.cancel(odd if odd != "1" else "x")
    with pytest.raises(EngineUnreachable, match="another machine"):
        engine.cancel("1@elsewhere")


@pytest.mark.parametrize("text", ["", "x", "-7", "9" * 30, "\0\0\0", "1", None])
def test_a_counter_that_is_damaged_is_made_anew(text, engine, tmp_path, caplog):
    """As after a power cut: no number is used twice, and the file is repaired."""
    ids = [engine.submit(job(tmp_path, "exit 0")) for _ in range(3)]
    last = engine.folder / "last"
    if text is None:
        last.unlink()
    else:
        last.write_text(text)
    ids.append(engine.submit(job(tmp_path, "exit 0")))
    assert ids == [f"{number}@{engine.host}" for number in range(1, 5)]
    assert last.read_text() == "4"
    is_damaged = text not in ("1", None)
    assert (f"{last} holds no number" in caplog.text) == is_damaged
    assert {ended(engine, job_id).state for job_id in ids} == {"done"}


@pytest.mark.parametrize("name", ["job.json", "exit.json", "started.json", "runner.json"])
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", '{"code": "x", "pid": "x"}', '{"pid": 0}', '{"pid": -1}', "[" * 100000],
    ids=lambda text: text[:20],
)
def test_files_of_a_job_that_are_damaged(name, text, engine, tmp_path):
    given = job(tmp_path, "exit 0")
    job_id, other = engine.submit(given), engine.submit(given)
    assert ended(engine, job_id) == ended(engine, other) == base.JobState("done", 0)
    (engine.folder / "jobs/1" / name).write_text(text)
    # What runs the job may end a moment after it has written exit.json
    wait(lambda: not engine.states([job_id])[job_id].alive)
    assert engine.states([job_id, other])[other].state == "done"
    assert engine.jobs() == []
    engine.cancel(job_id)


def test_a_lock_that_cannot_be_looked_at_is_about_its_job_alone(engine, tmp_path):
    given = job(tmp_path, "exit 0")
    job_id, other = engine.submit(given), engine.submit(given)
    for one in (job_id, other):
        ended(engine, one)
    folder = engine.folder / "jobs/1"
    for name in ("lock", "exit.json"):
        (folder / name).unlink()
    (folder / "lock").mkdir()
    states = engine.states([job_id, other])
    assert [states[one].state for one in (job_id, other)] == ["unknown", "done"]
    assert "cannot be read" in states[job_id].reason
    assert engine.jobs() == []


def test_state_is_on_disk_before_it_counts(engine, tmp_path, monkeypatch):
    """Each file is written separately, synchronized, and renamed."""
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        done.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_replace(old, new):
        done.append(("replace", str(old), str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    engine.submit(job(tmp_path, "exit 0"))
    loop.write_status(tmp_path / "status.json", {"state": "x"})
    replaced = [step for step in done if step[0] == "replace"]
    assert {Path(new).name for _, _, new in replaced} == {
        *("000123.sh", "last", "job.json", "status.json")
    }
    for _, old, new in replaced:
        before = done[: done.index(("replace", old, new))]
        assert ("fsync", old) in before
        assert ("fsync", str(Path(new).parent)) in done[len(before) :]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, caplog):
    path = tmp_path / "status.json"
    loop.write_status(path, {"state": "first"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(3):
        loop.write_status(path, {"state": "second"})
    assert json.loads(path.read_text())["state"] == "first"
    assert list(tmp_path.iterdir()) == [path]
    # Reported once, not in each round
    assert caplog.text.count("No space left on device") == 1


def test_old_jobs_are_forgotten(engine, tmp_path, monkeypatch):
    job_id = engine.submit(job(tmp_path, "exit 0"))
    ended(engine, job_id)
    running = engine.submit(job(tmp_path, "sleep 100"))
    started(engine, running)
    old = time.time() - local.KEEP - 1
    for path in (engine.folder / "jobs").iterdir():
        os.utime(path, (old, old))
    # Old folders are searched from time to time only
    next_id = engine.submit(job(tmp_path, "exit 0"))
    assert engine.state(job_id).state == "done"
    os.utime(engine.folder / "cleaned", (old, old))
    last_id = engine.submit(job(tmp_path, "exit 0"))
    assert engine.state(job_id).state == "gone"
    assert engine.state(running).state == "running"
    # A number is used once
    assert len({job_id, running, next_id, last_id}) == 4


_SUBMIT_MANY = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_engine_local import LocalEngine, job
engine = LocalEngine(Path({state!r}), slots=2)
folder = Path({folder!r}) / sys.argv[1]
folder.mkdir()
print(*[engine.submit(job(folder, "exit 0", str(i))) for i in range(5)])
"""


def test_several_submit_at_once(engine, tmp_path):
    code = _SUBMIT_MANY.format(
        tests=[str(folder) for folder in Path(__file__).parents[:2]],
        state=str(tmp_path / "state"),
        folder=str(tmp_path),
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    ids = [job_id for process in started for job_id in process.communicate()[0].split()]
    assert len(ids) == len({*ids}) == 15
    assert {ended(engine, job_id).state for job_id in ids} == {"done"}


def test_a_runner_is_light_and_its_files_are_private(engine, tmp_path):
    ids = [engine.submit(job(tmp_path, "sleep 100", str(i))) for i in range(3)]
    assert engine.state(ids[2]).state == "pending"
    runner = psutil.Process(runner_of(engine, ids[2]))
    assert not [m.path for m in runner.memory_maps() if "site-packages" in m.path]
    assert runner.memory_info().rss < 30e6
    assert stat.S_IMODE((engine.folder / "jobs").stat().st_mode) == 0o700


def test_settings(tmp_path, monkeypatch):
    assert engines.get("local").folder.parent == tmp_path / "user_state/amstrax/jobs"
    assert engines.get("local").slots == len(os.sched_getaffinity(0))
    monkeypatch.setenv("AMSTRAX_LOCAL_FOLDER", str(tmp_path / "here"))
    monkeypatch.setenv("AMSTRAX_LOCAL_JOBS", "7")
    engine = engines.get("local")
    assert isinstance(engine, LocalEngine)
    assert engine.slots == 7 and engine.folder.parent == tmp_path / "here"
    for odd in ("none", "0", "-1"):
        monkeypatch.setenv("AMSTRAX_LOCAL_JOBS", odd)
        with pytest.raises(InvalidOption, match="AMSTRAX_LOCAL_JOBS"):
            engines.get("local")
    assert settings.engine() == "local"


def test_describe(engine, tmp_path):
    given = job(tmp_path, "exit 0")
    text = engine.describe(given)
    assert str(given.script) in text and str(given.log) in text and "at most 2" in text
    assert not engine.folder.exists()
