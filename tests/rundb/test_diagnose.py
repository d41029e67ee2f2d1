"""`amstrax rundb check`: each step to the run database, and the one that fails."""

import re

import pytest
from servers import LOCALHOST, MONGO_USERS, MongoServer, SSHServer, free_port, settings_of

from amstrax import settings
from amstrax.rundb.diagnose import check

STEPS = ("name", "port", "host key", "log-in", "tunnel", "MongoDB log-in", "collection", "rights")


@pytest.fixture
def run_check(capsys):
    """Function that checks, and returns the exit status, text, and what came of each step."""

    def run(**kwargs) -> tuple[int, str, dict[str, str]]:
        status = check(**kwargs)
        text = capsys.readouterr().out
        found = re.findall(r"^(ok|FAILED|-) +(.{15})", text, re.M)
        return status, text, {name.strip(): result for result, name in found}

    return run


def test_all_is_well(run_check, mongo_collection, run_database_settings):
    mongo_collection.insert_many([{"_id": i, "number": i} for i in (3, 10, 7)])
    before = list(mongo_collection.find())
    status, text, results = run_check()
    assert status == 0
    assert results == dict.fromkeys(STEPS, "ok")
    assert "3 run documents, the last of run 10" in text
    assert "may read and write" in text
    assert list(mongo_collection.find()) == before
    # All settings are named; those that are secret not shown
    for name in settings.RUN_DATABASE:
        assert f"  {name} " in text
    assert f"DAQ_PORT {run_database_settings['DAQ_PORT']}" in re.sub(" +", " ", text)
    assert "MONGO_PASSWORD (set, not shown)" in re.sub(" +", " ", text)
    assert MONGO_USERS["writer"][0] not in text


def test_runs_with_two_documents(run_check, mongo_collection):
    numbers = [3, 10, 3, 7]
    mongo_collection.insert_many([{"_id": i, "number": n} for i, n in enumerate(numbers)])
    mongo_collection.insert_one({"_id": 9, "name": "000007"})
    status, text, _ = run_check()
    assert status == 0
    assert "the last of run 10; 2 runs have more than one (000003, 000007): remove all" in text


@pytest.mark.parametrize("detector", ["xams", "xamsl"])
def test_no_documents(run_check, mongo_collection, detector):
    status, text, _ = run_check(detector=detector)
    assert status == 0
    assert f"run.{'runs_gas' if detector == 'xams' else 'runs_new'} has no documents" in text


@pytest.mark.parametrize(
    ("change", "step", "message"),
    [
        ({"DAQ_HOST": "nowhere.invalid"}, "name", "no host 'nowhere.invalid' .*check DAQ_HOST"),
        ({"DAQ_PORT": "1"}, "port", "does not answer on port 1 .*check DAQ_HOST and DAQ_PORT"),
        (
            {"DAQ_KNOWN_HOSTS": "/none"},
            "host key",
            r"add to /none the line\n\[127.0.0.1\]:\d+ ssh-",
        ),
        ({"DAQ_USER": "nobody-here"}, "log-in", "nobody-here@127.0.0.1 is refused.*DAQ_USER"),
        ({"DAQ_KEY_FILE": "/none"}, "log-in", "key file /none .*DAQ_KEY_FILE"),
        ({"MONGO_HOST": "192.0.2.1"}, "tunnel", "forwards nothing to 192.0.2.1.*PermitOpen"),
        ({"MONGO_PASSWORD": "no"}, "MongoDB log-in", "refuses the log-in of writer.*MONGO_PASS"),
        ({"MONGO_USER": ""}, "MongoDB log-in", "MONGO_PASSWORD is set, but not MONGO_USER"),
        ({"MONGO_USER": "nobody"}, "collection", "nobody may not call find"),
    ],
)
def test_step_that_fails(run_check, run_database_settings, monkeypatch, change, step, message):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    if change.get("MONGO_USER") == "nobody":
        monkeypatch.setenv("MONGO_PASSWORD", MONGO_USERS["nobody"][0])
    status, text, results = run_check()
    assert status == 1
    index = STEPS.index(step)
    assert [results[name] for name in STEPS] == (
        ["ok"] * index + ["FAILED"] + ["-"] * (len(STEPS) - index - 1)
    )
    assert re.search(message, text), text
    assert MONGO_USERS["writer"][0] not in text


def test_mongodb_is_not_there(run_check, tmp_path, monkeypatch):
    """The tunnel stands, and leads to nothing."""
    port = free_port()
    server = SSHServer(tmp_path, port)
    try:
        values = {"DAQ_HOST": LOCALHOST, "DAQ_PORT": server.port, "DAQ_USER": server.user}
        values |= {"DAQ_KEY_FILE": server.key_file, "DAQ_KNOWN_HOSTS": server.known_hosts}
        values |= {"MONGO_PORT": port, "AMSTRAX_RUNDB_TIMEOUT": 120}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        status, text, results = run_check()
    finally:
        server.kill()
    assert status == 1
    assert results["log-in"] == "ok"
    assert results["tunnel"] == "FAILED"
    assert f"nothing listens at 127.0.0.1:{port} as seen from 127.0.0.1: start MongoDB" in text


def test_user_who_may_only_read(run_check, mongo_server, ssh_server, monkeypatch):
    for name, value in settings_of(mongo_server, ssh_server, "reader").items():
        monkeypatch.setenv(name, value)
    status, text, _ = run_check()
    assert status == 0
    assert "may read but not write" in text


def test_connection_string(run_check, mongo_collection, mongo_server, monkeypatch):
    password = MONGO_USERS["reader"][0]
    uri = f"mongodb://reader:{password}@{LOCALHOST}:{mongo_server.port}/?authSource=admin"
    monkeypatch.setenv("AMSTRAX_MONGO_URI", uri)
    status, text, results = run_check()
    assert status == 0
    assert list(results) == ["MongoDB log-in", "collection", "rights"]
    assert password not in text
    monkeypatch.setenv("AMSTRAX_MONGO_URI", uri.replace(password, "wrong-Pa55word"))
    status, text, _ = run_check()
    assert status == 1
    assert "check AMSTRAX_MONGO_URI" in text
    assert "wrong-Pa55word" not in text


def test_embedded_store(run_check, monkeypatch, tmp_path):
    path = tmp_path / "runs.sqlite"
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(path))
    status, text, results = run_check()
    assert status == 0
    assert results == {"file": "ok", "collection": "ok"}
    assert f"{path} does not exist yet" in text
    assert not path.exists()
    from amstrax.rundb.connection import get_mongo_collection

    get_mongo_collection().insert_one({"number": 12})
    status, text, _ = run_check()
    assert status == 0
    assert "run.runs_gas has 1 run documents, the last of run 12" in text


def test_file_that_is_no_database(run_check, monkeypatch, tmp_path):
    # A file of its own: beside one that a connection still has open lies what SQLite mends it with
    path = tmp_path / "notes.txt"
    path.write_text("no database")
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(path))
    status, text, results = run_check()
    assert status == 1
    assert results == {"file": "ok", "collection": "FAILED"}
    assert f"{path}: file is not a database; name another file with AMSTRAX_RUNDB_PATH" in text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DAQ_PORT", "ssh", "DAQ_PORT is 'ssh'"),
        ("DAQ_PASSWORD", "S3cret-passw0rd", "DAQ_PASSWORD is set, but DAQ_HOST is not"),
    ],
)
def test_settings_that_make_no_sense(run_check, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    status, text, results = run_check()
    assert status == 1
    assert results == {"settings": "FAILED"}
    assert message in text
    assert "S3cret" not in text


def test_file_of_settings_that_is_none(run_check, monkeypatch, tmp_path):
    path = tmp_path / "config"
    path.write_text("DAQ_PASSWORD = S3cret-passw0rd\n")
    monkeypatch.setenv("AMSTRAX_CONFIG", str(path))
    status, text, _ = run_check()
    assert status == 1
    assert f"{path} is not a file of settings" in text
    assert "S3cret" not in text


def test_source_of_each_setting(run_check, monkeypatch, tmp_path):
    path = tmp_path / "config"
    path.write_text("[default]\nDAQ_HOST = 127.0.0.1\nDAQ_PASSWORD = S3cret-passw0rd\n")
    path.chmod(0o600)
    monkeypatch.setenv("AMSTRAX_CONFIG", str(path))
    monkeypatch.setenv("DAQ_PORT", "1")
    _, text, _ = run_check()
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert lines["DAQ_HOST"].split()[1:3] == ["127.0.0.1", str(path)]
    assert lines["DAQ_PORT"].split()[1:3] == ["1", "environment"]
    assert lines["MONGO_PORT"].split()[1:3] == ["27017", "default"]
    assert lines["DAQ_USER"].split()[1:3] == [settings.login_name(), "default"]
    assert lines["MONGO_USER"].split()[1] == "-"
    assert "(set, not shown)" in lines["DAQ_PASSWORD"]
    assert "S3cret" not in text


def test_frozen_server_ends_in_time(run_check, tmp_path, monkeypatch):
    import signal

    (tmp_path / "mongo").mkdir()
    (tmp_path / "ssh").mkdir()
    mongo = MongoServer(tmp_path / "mongo")
    ssh = SSHServer(tmp_path / "ssh", mongo.port)
    try:
        values = settings_of(mongo, ssh) | {"AMSTRAX_RUNDB_TIMEOUT": "1"}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        mongo.signal(signal.SIGSTOP)
        status, _, results = run_check()
        while results["tunnel"] != "ok":
            # Time-outs this short are too short for sshd, too, on a machine with much to do
            status, _, results = run_check()
        assert (status, results["MongoDB log-in"]) == (1, "FAILED")
        ssh.signal(signal.SIGSTOP)
        status, _, results = run_check()
        assert (status, results["port"]) == (1, "FAILED")
    finally:
        for server in (mongo, ssh):
            server.signal(signal.SIGCONT)
            server.kill()
