"""No secret is in a log, an error, a list of processes, or what is printed."""

import gc
import json
import logging
import os
import subprocess
import sys
import threading

import psutil
import pytest
from servers import (
    LOCALHOST,
    MONGO_USERS,
    SSH_PASSWORD,
    PasswordServer,
    make_key,
    settings_of,
)

from amstrax import settings
from amstrax.rundb import connection

KEY_PASSWORD = "K3y-passw0rd"
WRONG = "Wr0ng-passw0rd"


@pytest.fixture
def values(tmp_path, mongo_server):
    """Settings with a password in each place that can have one."""
    server = PasswordServer(tmp_path, mongo_server.port)
    make_key(tmp_path / "key")
    command = ["ssh-keygen", "-q", "-p", "-P", "", "-N", KEY_PASSWORD, "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True, capture_output=True)
    server.key_file = tmp_path / "key"
    yield settings_of(mongo_server, server) | {
        "DAQ_KEY_PASSWORD": KEY_PASSWORD,
        "DAQ_PASSWORD": SSH_PASSWORD,
    }
    connection.close()
    server.close()


def secrets() -> set[str]:
    """Return all that nobody is to see, also as it is written in a connection string."""
    plain = {KEY_PASSWORD, SSH_PASSWORD, WRONG, *(password for password, _ in MONGO_USERS.values())}
    return plain | {encoded(each) for each in plain} | {repr(each)[1:-1] for each in plain}


def encoded(password: str) -> str:
    return "".join(f"%{ord(c):02x}" for c in password)


# Uses the run database well, and then with each wrong password, and prints all that is said
_PROGRAM = """
import json, logging, os, sys, traceback
logging.basicConfig(level=1, stream=sys.stdout, force=True)
for name in ("pymongo", "paramiko", "amstrax"):
    logging.getLogger(name).setLevel(1)
logging.getLogger("amstrax.rundb.tunnel.paramiko").setLevel(1)
from amstrax.rundb import connection
from amstrax.rundb.diagnose import check
from amstrax import settings

def use():
    try:
        runs = connection.get_mongo_collection()
        print(repr(runs), runs.count_documents({}) >= 0)
        runs.insert_one({"_id": 1})
        client = connection.get_mongo_client()
        print(client, repr(client["run"]["runs_gas"]), settings.run_database())
    except Exception:
        traceback.print_exc(file=sys.stdout)
    check()
    connection.close()

use()
for change in json.loads(sys.stdin.readline()):
    before = dict(os.environ)
    os.environ.update(change)
    use()
    os.environ.clear()
    os.environ.update(before)
print("READY", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_nothing_is_said_of_secrets(values, mongo_server, tmp_path):
    uri = f"mongodb://writer:{encoded(MONGO_USERS['writer'][0])}@{LOCALHOST}:{mongo_server.port}/"
    changes = [
        {"MONGO_PASSWORD": WRONG},
        {"DAQ_PASSWORD": WRONG},
        {"DAQ_KEY_PASSWORD": WRONG},
        {"DAQ_PORT": "1"},
        {"MONGO_PORT": "1"},
        {"DAQ_KNOWN_HOSTS": "/none"},
        {"MONGO_USER": "nobody", "MONGO_PASSWORD": MONGO_USERS["nobody"][0]},
        {"AMSTRAX_MONGO_URI": uri},
        {"AMSTRAX_MONGO_URI": uri.replace("mongodb:", "http:")},
        {"AMSTRAX_MONGO_URI": f"mongodb://writer:{MONGO_USERS['writer'][0]}@{LOCALHOST}/"},
        {"AMSTRAX_MONGO_URI": f"mongodb://writer:{WRONG}@{LOCALHOST}:{mongo_server.port}/"},
        {"AMSTRAX_MONGO_URI": f"mongodb://writer:{WRONG}@{LOCALHOST}:{WRONG}/?a={WRONG}"},
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | values,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        process.stdin.write(json.dumps(changes) + "\n")
        process.stdin.flush()
        lines = []
        for line in process.stdout:
            if line == "READY\n":
                break
            lines.append(line)
        commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    finally:
        process.communicate("\n", timeout=200)
    said = "".join(lines)
    # It did go through all of that, and was asked to say all
    assert process.returncode == 0
    assert "DEBUG:amstrax.rundb.tunnel.paramiko:" in said
    assert "may read and write" in said
    for text in ("refuses the log-in", "is refused, with", "is wrong", "is not a known host"):
        assert text in said, text
    assert said.count("is not a connection string") >= 3
    for secret in secrets():
        assert secret not in said
        assert not [command for command in commands if secret in command]


def test_errors_hold_no_secret(values, monkeypatch, caplog):
    """Neither their text, nor what they hold or were caused by, nor the locals a debugger shows."""
    for name, value in (values | {"MONGO_PASSWORD": WRONG}).items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.DEBUG), pytest.raises(PermissionError) as caught:
        connection.get_mongo_collection().find_one()
    error, seen = caught.value, []
    while error is not None:
        seen.append(f"{error!r} {error} {error.args} {vars(error)}")
        error = error.__cause__ or error.__context__
    assert seen[1:], "the cause is kept"
    for text in (*seen, caplog.text):
        assert not [secret for secret in secrets() if secret in text]


def test_what_is_kept_shows_no_secret(values, monkeypatch):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    runs = connection.get_mongo_collection()
    runs.find_one()
    shown = [repr(runs), str(runs), repr(settings.run_database())]
    for thing in gc.get_objects():
        if str(getattr(type(thing), "__module__", "")).startswith("amstrax"):
            shown.append(repr(thing))
    shown += [repr(thread) for thread in threading.enumerate()]
    shown.append(repr(connection.get_mongo_client()))
    for text in shown:
        assert not [secret for secret in secrets() if secret in text]
