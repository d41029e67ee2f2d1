"""The run database through a real sshd and a real server, and all that can go wrong on the way."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import paramiko
import psutil
import pymongo
import pytest
from servers import (
    LOCALHOST,
    MONGO_USERS,
    SSH_PASSWORD,
    AwakeTime,
    MongoServer,
    PasswordServer,
    SSHServer,
    free_port,
    make_key,
    settings_of,
)

from amstrax import settings
from amstrax.exceptions import (
    HostKeyRefused,
    InvalidOption,
    RunDatabaseError,
    RunDatabaseNotSet,
    RunDatabaseRefused,
    RunDatabaseUnreachable,
)
from amstrax.rundb import connection, known_hosts, tunnel
from amstrax.rundb.connection import (
    Collection,
    get_mongo_client,
    get_mongo_collection,
    is_repeatable,
    resilient,
    retry,
)
from amstrax.rundb.diagnose import check
from amstrax.rundb.ssh_config import destination


@pytest.fixture(autouse=True)
def no_connections():
    """Each test starts, and ends, without a connection."""
    connection.close()
    yield
    connection.close()


@pytest.fixture
def set_all(monkeypatch):
    """Function that puts settings into the environment."""

    def set_them(values: dict[str, str]) -> None:
        for name in settings.RUN_DATABASE:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_them


@pytest.fixture
def own_ssh(tmp_path, mongo_server, set_all):
    """An sshd of this test alone, to which the settings lead."""
    server = SSHServer(tmp_path, mongo_server.port)
    set_all(settings_of(mongo_server, server))
    yield server
    server.kill()


@pytest.fixture
def own_ssh_to(tmp_path, mongo_server, set_all):
    """Function that starts an sshd that leads to a port, as the settings do."""
    servers = []

    def start(port: int) -> None:
        servers.append(SSHServer(tmp_path, port))
        set_all(settings_of(mongo_server, servers[0]) | {"MONGO_PORT": str(port)})

    yield start
    servers[0].kill()


@pytest.fixture
def own_mongo(tmp_path, set_all):
    """A MongoDB server of this test alone behind an sshd, to both of which the settings lead."""
    (tmp_path / "mongo").mkdir()
    (tmp_path / "ssh").mkdir()
    mongo = MongoServer(tmp_path / "mongo")
    ssh = SSHServer(tmp_path / "ssh", mongo.port)
    set_all(settings_of(mongo, ssh))
    yield mongo
    ssh.kill()
    mongo.kill()


def only_connection() -> connection.Connection:
    """Return the connection of this process."""
    (found,) = connection._connections.values()
    return found


def is_up(its_tunnel: tunnel.Tunnel) -> bool:
    """Return whether a tunnel has a session that it takes for alive."""
    return its_tunnel.is_active


def wait_for(condition, seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.05)


def until_reached(function, *args):
    """Return what a function returns, called until the run database is reached.

    With time-outs short enough for a test of what never comes, what does come may be too late.
    """
    end = time.monotonic() + 300
    while True:
        try:
            return function(*args)
        except RunDatabaseUnreachable:
            assert time.monotonic() < end, "it is never reached"


# ------------------------------------------------------------------------------- it works


@pytest.mark.smoke
def test_documents_go_through_the_tunnel(mongo_collection, mongo_server, ssh_server):
    def connected(port):
        connections = psutil.Process().net_connections("tcp")
        established = [c for c in connections if c.status == "ESTABLISHED"]
        return {c.laddr for c in established if c.raddr == (LOCALHOST, port)}

    # An SSH server of an earlier test may have some, in a thread of this process
    before = connected(mongo_server.port)
    document = {"number": 1, "name": "000001", "daq_config": {"big": "x" * 2_000_000}}
    mongo_collection.insert_one(dict(document, _id=1))
    assert mongo_collection.find_one({"number": 1}) == dict(document, _id=1)
    assert mongo_collection.count_documents({}) == 1
    with mongo_server.client() as client:
        assert client["run"]["runs_gas"].count_documents({}) == 1
    # The way is the tunnel: sshd has the one connection of this process, and the client a local one
    assert get_mongo_client().address == only_connection().tunnel.address
    host, port = only_connection().tunnel.address
    assert host == LOCALHOST != port

    # The server's own client closes its connections when it comes to it
    wait_for(lambda: not connected(mongo_server.port) - before)
    assert mongo_collection.find_one({"number": 1})
    assert connected(ssh_server.port)
    assert not connected(mongo_server.port) - before


def test_the_local_end_is_on_loopback_alone(mongo_collection):
    mongo_collection.find_one()
    listening = [c for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]
    ports = [c.laddr for c in listening if c.laddr.port == only_connection().tunnel.address[1]]
    assert [address.ip for address in ports] == [LOCALHOST]


def test_client_is_one_per_process(run_database_settings):
    given = {}
    client = get_mongo_client(secret_serving_port=given)
    assert isinstance(client, pymongo.MongoClient)
    assert get_mongo_client() is client
    assert given == {"rundb": client.address[1]}
    assert client["admin"].command("ping")["ok"] == 1


def test_host_and_user_as_arguments(run_database_settings, monkeypatch):
    user = run_database_settings["DAQ_USER"]
    monkeypatch.delenv("DAQ_HOST")
    monkeypatch.setenv("DAQ_USER", "somebody")
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://nowhere.invalid/")
    runs = get_mongo_collection("xams", daq_host=LOCALHOST, daq_user=user)
    assert runs.count_documents({}) >= 0
    assert get_mongo_client(daq_host=LOCALHOST, daq_user=user) is only_connection().client


def test_collections_of_the_detectors(run_database_settings):
    assert get_mongo_collection().full_name == "run.runs_gas"
    assert get_mongo_collection("xamsl").full_name == "run.runs_new"
    assert get_mongo_collection("xamsl", "test").full_name == "test.runs_new"
    assert connection.get_collection("daq", "processing").full_name == "daq.processing"
    with pytest.raises(NameError, match="'xenonnt'.*take one of xams, xamsl"):
        get_mongo_collection("xenonnt")
    assert not connection._connections


def test_collection_has_methods_of_pymongo(mongo_collection):
    mongo_collection.insert_many([{"_id": i, "number": i, "tags": []} for i in range(1000)])
    found = mongo_collection.find({"number": {"$gte": 5}}, {"number": 1}).sort("number", -1)
    assert [each["_id"] for each in found.limit(2)] == [999, 998]
    assert len(list(mongo_collection.find(batch_size=10))) == 1000
    assert mongo_collection.find({}).sort("_id", 1)[7]["_id"] == 7
    assert mongo_collection.distinct("number", {"_id": {"$lt": 2}}) == [0, 1]
    assert mongo_collection.update_one({"number": 2}, {"$set": {"a": 1}}).modified_count == 1
    after = pymongo.ReturnDocument.AFTER
    changed = mongo_collection.find_one_and_update({"a": 1}, {"$inc": {"a": 1}}, {"a": 1})
    assert changed == {"_id": 2, "a": 1}
    changed = mongo_collection.find_one_and_update(
        {"a": 2}, {"$inc": {"a": 1}}, return_document=after
    )
    assert changed["a"] == 3
    assert mongo_collection.delete_one({"_id": 2}).deleted_count == 1
    with pytest.raises(AttributeError, match="has no 'remove'.*delete_one"):
        mongo_collection.remove({})
    with pytest.raises(NotImplementedError, match="compare it with None"):
        bool(mongo_collection)


def test_errors_about_the_request_are_those_of_pymongo(mongo_collection):
    mongo_collection.insert_one({"_id": 1})
    with pytest.raises(pymongo.errors.DuplicateKeyError):
        mongo_collection.insert_one({"_id": 1})
    with pytest.raises(pymongo.errors.OperationFailure):
        mongo_collection.find_one({"$nonsense": 1})
    with pytest.raises(pymongo.errors.OperationFailure):
        list(mongo_collection.find({"$nonsense": 1}))


def test_connection_string_needs_no_tunnel(mongo_server, mongo_collection, set_all):
    password = "".join(f"%{ord(c):02x}" for c in MONGO_USERS["writer"][0])
    uri = f"mongodb://writer:{password}@{LOCALHOST}:{mongo_server.port}/?authSource=admin"
    set_all({"AMSTRAX_MONGO_URI": f"{uri}&timeoutMS=95000&appName=me"})
    connection.close()
    runs = get_mongo_collection("xams")
    runs.insert_one({"_id": 7})
    assert runs.find_one() == {"_id": 7}
    assert only_connection().tunnel is None
    assert only_connection().client.options.timeout == 95
    assert only_connection().client.options.pool_options.appname == "me"


def test_password_of_ssh(tmp_path, mongo_server, set_all):
    server = PasswordServer(tmp_path, mongo_server.port)
    values = settings_of(mongo_server, server_as_ssh(server))
    try:
        set_all(values | {"DAQ_PASSWORD": SSH_PASSWORD})
        assert get_mongo_collection().count_documents({}) >= 0
        connection.close()
        set_all(values | {"DAQ_PASSWORD": "wrong-Pa55word"})
        with pytest.raises(RunDatabaseRefused, match="somebody@127.0.0.1 is refused, with the pa"):
            get_mongo_collection().find_one()
        # A key that does not do is followed by the password
        make_key(tmp_path / "key")
        set_all(values | {"DAQ_KEY_FILE": tmp_path / "key", "DAQ_PASSWORD": SSH_PASSWORD})
        assert get_mongo_collection().count_documents({}) >= 0
    finally:
        connection.close()
        server.close()


def server_as_ssh(server: PasswordServer):
    """Give a server with passwords what `settings_of` asks for."""
    server.key_file = ""
    return server


def test_nothing_is_connected_before_it_is_used(set_all, caplog):
    set_all({"DAQ_HOST": "nowhere.invalid", "DAQ_PASSWORD": "x"})
    runs = get_mongo_collection()
    assert not connection._connections
    with pytest.raises(RunDatabaseUnreachable, match="no host 'nowhere.invalid' .*DAQ_HOST"):
        runs.find_one()


def test_to_get_a_collection_imports_neither_pymongo_nor_paramiko(run_database_settings):
    code = """
import sys
from amstrax.rundb import connection
runs = connection.get_mongo_collection("xams")
assert not {"pymongo", "bson", "paramiko", "strax", "numpy"} & set(sys.modules), sys.modules
assert runs.find_one({"_id": "nothing"}) is None
assert {"pymongo", "paramiko"} <= set(sys.modules)
assert "strax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_collection_is_pickled_without_settings(mongo_collection):
    mongo_collection.insert_one({"_id": 3})
    data = pickle.dumps(mongo_collection)
    assert MONGO_USERS["writer"][0].encode() not in data
    assert pickle.loads(data).find_one() == {"_id": 3}


# ------------------------------------------------------------------ settings that cannot do


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"DAQ_HOST": ""}, RunDatabaseNotSet, "MONGO_PASSWORD is set .*but DAQ_HOST is not"),
        ({"MONGO_USER": ""}, RunDatabaseNotSet, "MONGO_PASSWORD is set, but not MONGO_USER"),
        ({"MONGO_PASSWORD": ""}, RunDatabaseNotSet, "MONGO_USER is set, but not MONGO_PASSWORD"),
        ({"DAQ_PORT": "ssh"}, InvalidOption, "DAQ_PORT is 'ssh': make it a number"),
        ({"DAQ_PORT": "22.5"}, InvalidOption, "DAQ_PORT is 22.5: a port is a whole number"),
        ({"MONGO_PORT": "70000"}, InvalidOption, "MONGO_PORT is '70000'.*to 65535"),
        ({"AMSTRAX_RUNDB_TIMEOUT": "0"}, InvalidOption, "AMSTRAX_RUNDB_TIMEOUT is '0'"),
        ({"AMSTRAX_MONGO_URI": "http://me:S3cret@host"}, RunDatabaseNotSet, "not a connection"),
        ({"AMSTRAX_MONGO_URI": "mongodb://me:S3cret/@host"}, RunDatabaseNotSet, "percent-enc"),
        ({"DAQ_KEY_FILE": "/none"}, RunDatabaseNotSet, "key file /none cannot be read .*No such"),
        ({"MONGO_HOST": "192.0.2.1"}, RunDatabaseRefused, "forwards nothing to 192.0.2.1:.*Permi"),
        ({"DAQ_USER": "no-such-user"}, RunDatabaseRefused, "no-such-user@127.0.0.1 is refused"),
    ],
)
def test_settings_that_cannot_do(run_database_settings, monkeypatch, change, kind, message):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=message) as error:
        get_mongo_collection().find_one()
    text = f"{error.value!r} {error.value.__cause__!r} {error.value.__context__!r}"
    assert "S3cret" not in text
    assert MONGO_USERS["writer"][0] not in text


def test_wrong_ports(run_database_settings, monkeypatch, mongo_server, tmp_path):
    monkeypatch.setenv("DAQ_PORT", str(free_port()))
    with pytest.raises(RunDatabaseUnreachable, match="port .*Connection refused"):
        get_mongo_collection().find_one()
    # A server that is none of SSH
    monkeypatch.setenv("DAQ_PORT", str(mongo_server.port))
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "4")
    with pytest.raises(RunDatabaseUnreachable, match="does not answer as an SSH server"):
        get_mongo_collection().find_one()


def test_mongodb_is_not_there(own_mongo):
    own_mongo.kill()
    with pytest.raises(RunDatabaseUnreachable, match="nothing listens at .* start MongoDB there"):
        get_mongo_collection().find_one()


def test_key_files(run_database_settings, monkeypatch, tmp_path, ssh_server):
    path = tmp_path / "no_key"
    path.write_text("no key\n")
    monkeypatch.setenv("DAQ_KEY_FILE", str(path))
    with pytest.raises(RunDatabaseNotSet, match=f"{path} holds no private key"):
        get_mongo_client()
    locked = tmp_path / "locked"
    locked.write_bytes(ssh_server.key_file.read_bytes())
    locked.chmod(0o600)
    command = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "K3y-passw0rd", "-f", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("DAQ_KEY_FILE", str(locked))
    with pytest.raises(RunDatabaseNotSet, match="needs a password: set DAQ_KEY_PASSWORD"):
        get_mongo_client()
    monkeypatch.setenv("DAQ_KEY_PASSWORD", "wrong")
    with pytest.raises(RunDatabaseNotSet, match="DAQ_KEY_PASSWORD is wrong"):
        get_mongo_client()
    monkeypatch.setenv("DAQ_KEY_PASSWORD", "K3y-passw0rd")
    assert get_mongo_client()["admin"].command("ping")["ok"]


def test_keys_that_ssh_takes_by_itself(run_database_settings, monkeypatch, tmp_path, ssh_server):
    monkeypatch.delenv("DAQ_KEY_FILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RunDatabaseNotSet, match="nothing to log in with .*DAQ_KEY_FILE"):
        get_mongo_client()
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").write_bytes(ssh_server.key_file.read_bytes())
    connection.close()
    assert get_mongo_client()["admin"].command("ping")["ok"]


def test_key_of_an_agent(run_database_settings, monkeypatch, tmp_path, ssh_server):
    monkeypatch.delenv("DAQ_KEY_FILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        # Its socket is there before it listens
        add = ["ssh-add", "-q", str(ssh_server.key_file)]
        wait_for(lambda: subprocess.run(add, stderr=subprocess.DEVNULL).returncode == 0)
        assert get_mongo_client()["admin"].command("ping")["ok"]
    finally:
        agent.kill()
        agent.wait()


# --------------------------------------------------------------------------- who may come in


def test_wrong_key_of_the_user(own_ssh, monkeypatch):
    monkeypatch.setenv("DAQ_KEY_FILE", str(own_ssh.folder / "other_key"))
    with pytest.raises(RunDatabaseRefused, match="is refused, with the key .*other_key"):
        get_mongo_collection().find_one()
    refusal = "Connection closed by authenticating user"
    assert own_ssh.said(refusal, 1) == 1
    # It is not tried again and again, which would lock the account
    for _ in range(3):
        with pytest.raises(RunDatabaseRefused, match="is refused, with the key .*other_key"):
            get_mongo_collection().find_one()
    wait_for(lambda: len(own_ssh._processes()) == 1)
    assert own_ssh.said(refusal, 1) == 1


def test_unknown_host_key(own_ssh):
    line_to_add = own_ssh.known_hosts_line().strip()
    own_ssh.known_hosts.write_text("# nobody\nother.example.org ssh-ed25519 AAAA\nnonsense\n")
    with pytest.raises(HostKeyRefused, match="is not a known host.*SHA256:") as error:
        get_mongo_collection().find_one()
    assert str(error.value).splitlines()[-1] == line_to_add
    assert str(own_ssh.known_hosts) in str(error.value)
    # The line does
    own_ssh.known_hosts.write_text(line_to_add)
    connection.close()
    assert get_mongo_collection().count_documents({}) >= 0


def test_no_file_of_known_hosts(own_ssh):
    own_ssh.known_hosts.unlink()
    with pytest.raises(HostKeyRefused, match="is not a known host"):
        get_mongo_collection().find_one()


def test_hashed_name_of_a_known_host(own_ssh):
    command = ["ssh-keygen", "-q", "-H", "-f", str(own_ssh.known_hosts)]
    subprocess.run(command, check=True, capture_output=True)
    assert LOCALHOST not in own_ssh.known_hosts.read_text()
    assert get_mongo_collection().count_documents({}) >= 0


def test_changed_host_key(own_ssh):
    runs = get_mongo_collection()
    assert runs.count_documents({}) >= 0
    own_ssh.kill()
    own_ssh.new_host_key(known=False)
    own_ssh.start()
    with pytest.raises(HostKeyRefused, match="differs from the known one .*line 1.*ssh-keygen -R"):
        runs.find_one()
    before = own_ssh.known_hosts.read_text()
    assert own_ssh.known_hosts_line() != before
    # A host may have several keys
    own_ssh.known_hosts.write_text(before + own_ssh.known_hosts_line())
    connection.close()
    assert runs.count_documents({}) >= 0


def test_host_key_of_another_kind_than_the_one_preferred(own_ssh):
    """The one that is known must be asked for, where the host has several."""
    rsa = own_ssh.folder / "rsa_host_key"
    command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "", "-f", str(rsa)]
    subprocess.run(command, check=True)
    with open(own_ssh.folder / "sshd_config", "a") as config:
        config.write(f"HostKey {rsa}\n")
    kind, key = rsa.with_name("rsa_host_key.pub").read_text().split()[:2]
    own_ssh.known_hosts.write_text(f"[{LOCALHOST}]:{own_ssh.port} {kind} {key}\n")
    own_ssh.kill()
    own_ssh.start()
    assert get_mongo_collection().count_documents({}) >= 0


def test_revoked_host_key(own_ssh):
    """It is refused, though another line has it, before or after."""
    line_ = own_ssh.known_hosts_line()
    revoked = f"@revoked * {line_.split(' ', 1)[1]}"
    for text in (revoked, line_ + revoked, revoked + line_):
        own_ssh.known_hosts.write_text(text)
        connection.close()
        with pytest.raises(HostKeyRefused, match="shows the key SHA256:.*which is revoked .*line"):
            get_mongo_collection().find_one()
    # One of another host, or another key, is none of this
    own_ssh.known_hosts.write_text(line_ + revoked.replace("*", "*.example.org"))
    connection.close()
    assert get_mongo_collection().count_documents({}) >= 0


def test_files_of_revoked_keys(own_ssh, tmp_path, monkeypatch):
    path, public = tmp_path / "revoked", own_ssh.folder / "host_key.pub"
    config = tmp_path / "config"
    config.write_text(f"Host *\n RevokedHostKeys {path}\n")
    monkeypatch.setenv("AMSTRAX_SSH_CONFIG", str(config))
    with pytest.raises(RunDatabaseNotSet, match=f"{path} cannot be read .*RevokedHostKeys"):
        get_mongo_collection().find_one()
    for make in (
        lambda: path.write_text(f"# lost\n{public.read_text()}"),
        lambda: subprocess.run(["ssh-keygen", "-q", "-k", "-f", path, public], check=True),
    ):
        make()
        connection.close()
        with pytest.raises(HostKeyRefused, match=f"which is revoked .{path}"):
            get_mongo_collection().find_one()
        path.unlink()
    other = own_ssh.folder / "other_key.pub"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", path, other], check=True)
    connection.close()
    assert get_mongo_collection().count_documents({}) >= 0


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_certificate_of_the_host(own_ssh, kind):
    authority = own_ssh.folder / "authority"
    make_key(authority, kind)
    line_ = own_ssh.certify(authority, "-h", "-n", f"other,{LOCALHOST}", "-V", "-1d:+1d")
    own_ssh.kill()
    own_ssh.start()
    own_ssh.known_hosts.write_text(line_)
    assert get_mongo_collection().count_documents({}) >= 0
    # By name of the host, whatever its port, and by patterns
    for hosts in (LOCALHOST, "127.0.0.*", "[127.0.0.?]:*", f"*,!other,{LOCALHOST}"):
        own_ssh.known_hosts.write_text(line_.replace(f"[{LOCALHOST}]:{own_ssh.port}", hosts))
        connection.close()
        assert get_mongo_collection().count_documents({}) >= 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-h", "-n", "daq.example.org"), "for daq.example.org, not 127.0.0.1"),
        (("-h",), "for no host, not 127.0.0.1"),
        (("-h", "-n", LOCALHOST, "-V", "20200101:20210101"), "expired"),
        (("-h", "-n", LOCALHOST, "-V", "20900101:20910101"), "not valid yet"),
        (("-n", LOCALHOST), "not for a host"),
    ],
    ids=str,
)
def test_certificate_that_does_not_do(own_ssh, options, reason):
    authority = own_ssh.folder / "authority"
    make_key(authority)
    line_ = own_ssh.certify(authority, *options)
    own_ssh.kill()
    try:
        own_ssh.start()
    except pytest.fail.Exception:
        # sshd itself takes none that is not of a host
        assert "-h" not in options
        return
    own_ssh.known_hosts.write_text(line_)
    known = "is not a known host"
    if "-h" in options:
        known = f"is not a known host; its certificate is {reason}"
    with pytest.raises(HostKeyRefused, match=known):
        get_mongo_collection().find_one()
    # The key itself may be known, as for ssh
    own_ssh.known_hosts.write_text(line_ + own_ssh.known_hosts_line())
    connection.close()
    assert get_mongo_collection().count_documents({}) >= 0


def test_certificate_of_an_unknown_or_revoked_authority(own_ssh):
    authority, other = own_ssh.folder / "authority", own_ssh.folder / "other_key"
    make_key(authority)
    line_ = own_ssh.certify(authority, "-h", "-n", LOCALHOST)
    own_ssh.kill()
    own_ssh.start()
    key = " ".join(line_.split()[2:])
    other_key = " ".join(other.with_name("other_key.pub").read_text().split()[:2])
    for text, reason in (
        (line_.replace(key, other_key), "signed by an unknown authority"),
        (line_.replace(f"[{LOCALHOST}]", "[127.0.0.2]"), "is not a known host"),
        (line_.replace("@cert-authority ", ""), "which differs from the known one"),
        (f"{line_}@revoked * {key}\n", "shows a certificate of the key SHA256:.* is revoked"),
        (f"{line_}@revoked * {own_ssh.known_hosts_line().split(' ', 1)[1]}", "which is revoked"),
    ):
        own_ssh.known_hosts.write_text(text)
        connection.close()
        with pytest.raises(HostKeyRefused, match=reason):
            get_mongo_collection().find_one()


@pytest.mark.parametrize(
    ("algorithm", "forged", "reason"),
    [
        ("rsa-sha2-256", b"daq", ""),
        ("rsa-sha2-512", b"daq", ""),
        ("ssh-rsa", b"daq", "signed with SHA-1"),
        ("rsa-sha2-512", b"dac", "not signed by its authority"),
    ],
)
def test_signature_of_a_certificate(tmp_path, algorithm, forged, reason):
    make_key(tmp_path / "authority", "rsa")
    make_key(tmp_path / "key")
    command = ["ssh-keygen", "-q", "-s", tmp_path / "authority", "-t", algorithm, "-I", "test"]
    subprocess.run([*command, "-h", "-n", "daq", tmp_path / "key.pub"], check=True)
    public = paramiko.pkey.PublicBlob.from_file(str(tmp_path / "key-cert.pub"))
    public.key_blob = public.key_blob.replace(b"daq", forged)
    certificate, authority = known_hosts._certificate("daq", public)
    assert authority.get_base64() == (tmp_path / "authority.pub").read_text().split()[1]
    assert known_hosts._fault(certificate, public.key_blob, forged.decode()) == reason
    with pytest.raises(HostKeyRefused, match="daq shows a certificate that cannot be read"):
        public.key_blob = public.key_blob[:100]
        known_hosts._certificate("daq", public)


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        ("host", "host", True),
        ("HOST,other", "host", True),
        ("host", "hosts", False),
        ("*.example.org", "daq.example.org", True),
        ("*.example.org,!daq.*", "daq.example.org", False),
        ("!daq.*,*.example.org", "daq.example.org", False),
        ("!daq.*", "lab.example.org", False),
        ("daq?", "daq1", True),
        ("[daq]:*", "[daq]:2222", True),
        ("[daq]:2222", "[daq]:2223", False),
        ("d.q", "daq", False),
        ("|1|AAAA|AAAA", "host", False),
        ("|1|nonsense", "host", False),
        ("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=", "192.168.1.61", True),
    ],
)
def test_names_in_known_hosts(patterns, name, expected, tmp_path):
    """As ssh-keygen finds them, which is ssh's own code."""
    assert known_hosts.matches(patterns, name) is expected
    path = tmp_path / "known_hosts"
    make_key(tmp_path / "key")
    path.write_text(f"{patterns} {' '.join((tmp_path / 'key.pub').read_text().split()[:2])}\n")
    found = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", path], capture_output=True, text=True
    ).stdout
    assert ("found: line 1" in found) is expected


def test_file_of_known_hosts_that_cannot_be_read(own_ssh):
    """It may revoke keys."""
    own_ssh.known_hosts.unlink()
    own_ssh.known_hosts.mkdir()
    with pytest.raises(RunDatabaseNotSet, match="known_hosts cannot be read .*DAQ_KNOWN_HOSTS"):
        get_mongo_collection().find_one()


# ------------------------------------------------------------------------ settings of ssh


@pytest.fixture
def ssh_config(own_ssh, tmp_path, monkeypatch):
    """Settings of ssh with all that leads to the server, of which amstrax's have the alias only."""
    for name in ("DAQ_PORT", "DAQ_USER", "DAQ_KEY_FILE", "DAQ_KNOWN_HOSTS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DAQ_HOST", "login")
    path = own_ssh.client_config(tmp_path / "ssh_config")
    monkeypatch.setenv("AMSTRAX_SSH_CONFIG", str(path))
    return path


def test_alias_of_ssh(ssh_config, own_ssh, monkeypatch, capsys):
    assert get_mongo_collection().count_documents({}) >= 0
    assert check("xams") == 0
    said = capsys.readouterr().out
    assert f"login is {LOCALHOST}, by ssh's settings {LOCALHOST}" in said
    assert f"port {own_ssh.port} answers" in said and f"as {own_ssh.user}, with the key" in said
    # What is set for amstrax goes before
    for name, value in (("DAQ_USER", "no-such-user"), ("DAQ_PORT", str(free_port()))):
        connection.close()
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(RunDatabaseError, match=value):
                get_mongo_collection().find_one()
    monkeypatch.setenv("DAQ_HOST", "another")
    with pytest.raises(RunDatabaseUnreachable, match="no host 'another'"):
        get_mongo_collection().find_one()


def test_parts_of_ssh_settings(ssh_config, own_ssh, monkeypatch):
    """Include, Match, tokens, HostKeyAlias, several files of known hosts, with spaces too."""
    text = ssh_config.read_text()
    inner, known = ssh_config.with_name("inner"), ssh_config.with_name("known hosts")
    key = ssh_config.with_name(f"key_of_{own_ssh.user}")
    key.write_bytes(own_ssh.key_file.read_bytes())
    key.chmod(0o600)
    known.write_text("other " + own_ssh.known_hosts_line().split(" ", 1)[1])
    inner.write_text(
        text.replace("Host login", "Match originalhost login")
        .replace(str(own_ssh.known_hosts), f'/none "{known}"')
        .replace(str(own_ssh.key_file), f"{ssh_config.parent}/key_of_%r")
        + "    HostKeyAlias other\n"
    )
    ssh_config.write_text(f"Include {inner}\nHost login\n    Port 1\n")
    assert get_mongo_collection().count_documents({}) >= 0
    # Not weaker than without: an unknown host stays unknown
    known.write_text("")
    inner.write_text(inner.read_text() + "    StrictHostKeyChecking no\n")
    connection.close()
    with pytest.raises(HostKeyRefused, match="other is not a known host; .*add to "):
        get_mongo_collection().find_one()


def test_keys_of_the_agent_and_identities_only(ssh_config, own_ssh, monkeypatch, tmp_path):
    path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        add = ["ssh-add", "-q", str(own_ssh.folder / "other_key"), str(own_ssh.key_file)]
        wait_for(lambda: subprocess.run(add, stderr=subprocess.DEVNULL).returncode == 0)
        # A file with the public key says which of the agent's is meant
        text = ssh_config.read_text()
        public = f"{own_ssh.key_file}.pub"
        ssh_config.write_text(text.replace(str(own_ssh.key_file), public))
        assert get_mongo_collection().count_documents({}) >= 0
        refusals = own_ssh.log_path.read_text().count("Connection closed by authenticating")
        assert refusals == 0
        connection.close()
        ssh_config.write_text(text.replace(str(own_ssh.key_file), str(tmp_path / "none")))
        with pytest.raises(RunDatabaseNotSet, match="nothing to log in with"):
            get_mongo_collection().find_one()
        connection.close()
        ssh_config.write_text(ssh_config.read_text().replace("IdentitiesOnly yes", ""))
        assert get_mongo_collection().count_documents({}) >= 0
        connection.close()
        ssh_config.write_text(ssh_config.read_text() + "    IdentityAgent none\n")
        with pytest.raises(RunDatabaseNotSet, match="nothing to log in with"):
            get_mongo_collection().find_one()
    finally:
        agent.kill()
        agent.wait()


@pytest.fixture
def jump(own_ssh, ssh_config, tmp_path):
    """A second sshd that leads to the first, over which the settings of ssh lead."""
    (tmp_path / "jump").mkdir()
    server = SSHServer(tmp_path / "jump", own_ssh.port)
    more = server.client_config(tmp_path / "jump_config", "jump").read_text()
    ssh_config.write_text(f"{ssh_config.read_text()}    ProxyJump jump\n{more}")
    yield server
    server.kill()


def test_jump_host(jump, own_ssh, ssh_config, caplog):
    runs = get_mongo_collection()
    assert runs.count_documents({}) >= 0
    assert jump.said("Accepted publickey", 1) == 1 == own_ssh.said("Accepted publickey", 1)
    # It mends itself through the jump host too
    jump.kill()
    wait_for(lambda: not is_up(only_connection().tunnel))
    jump.start()
    assert runs.count_documents({}) >= 0
    # Children let go of it, and do not end it
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=connection.close)
    child.start()
    child.join(200)
    assert child.exitcode == 0 and runs.count_documents({}) >= 0
    assert jump.said("Accepted publickey", 2) == 2

    def proxies():
        return [c for c in psutil.Process().children() if "-W" in " ".join(c.cmdline())]

    assert len(proxies()) == 1
    connection.close()
    wait_for(lambda: not proxies())
    # The command of another kind
    text = ssh_config.read_text()
    command = f"ssh -F {ssh_config} -o BatchMode=yes -W %h:%p jump"
    ssh_config.write_text(text.replace("ProxyJump jump", f"ProxyCommand {command}"))
    assert runs.count_documents({}) >= 0
    connection.close()


def test_jump_host_that_does_not_do(jump, own_ssh, ssh_config):
    jump.known_hosts.write_text("")
    with pytest.raises(
        RunDatabaseUnreachable, match=r"127.0.0.1 is not reached through 'ssh .*verification failed"
    ):
        get_mongo_collection().find_one()
    # The key of the last host is verified as without one
    jump.known_hosts.write_text(jump.known_hosts_line())
    own_ssh.known_hosts.write_text(f"@revoked * {own_ssh.known_hosts_line().split(' ', 1)[1]}")
    connection.close()
    with pytest.raises(HostKeyRefused, match="which is revoked"):
        get_mongo_collection().find_one()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Nonsense yes\n", "ssh cannot use its settings for 'login' .*check DAQ_HOST and "),
        ("Host login\n ProxyUseFdpass yes\n ProxyCommand x\n", "ProxyUseFdpass"),
        ("Host login\n ProxyCommand x %C\n", "does not know the token %C"),
        (None, "ssh cannot use its settings .*open user config file"),
    ],
)
def test_settings_of_ssh_that_do_not_do(ssh_config, text, message):
    if text is None:
        ssh_config.unlink()
    else:
        ssh_config.write_text(text)
    with pytest.raises(RunDatabaseNotSet, match=message):
        get_mongo_collection().find_one()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sleep 1000", "ssh's settings"),
        ("echo no way >&2; exit 1", "no way"),
        ("/none", "ot found"),
    ],
)
def test_proxy_that_leads_nowhere(ssh_config, monkeypatch, command, reason):
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "4")
    ssh_config.write_text(f"{ssh_config.read_text()}    ProxyCommand {command}\n")
    with AwakeTime() as time_taken:
        with pytest.raises(RunDatabaseUnreachable, match=f"is not reached through .*{reason}"):
            get_mongo_collection().find_one()
        connection.close()
    assert time_taken.seconds < 20
    wait_for(lambda: not [c for c in psutil.Process().children() if "sleep" in c.name()])


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "a b", "a;b", "\0"])
def test_odd_names_of_hosts(own_ssh, host, tmp_path):
    with pytest.raises(RunDatabaseNotSet, match="DAQ_HOST"):
        get_mongo_collection(daq_host=host).find_one()


def test_machine_without_ssh(own_ssh, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert get_mongo_collection().count_documents({}) >= 0
    assert "ssh is not installed: its settings for 127.0.0.1 are not used" in caplog.text


def test_user_without_a_home_folder(own_ssh, monkeypatch, tmp_path):
    """As in a container whose user id has no name: ssh does not start there."""
    config = settings.run_database()

    def expanduser(path):
        if path.parts[0] == "~":
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", expanduser)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = destination(config)
    assert (found.host, found.port, found.user) == (LOCALHOST, own_ssh.port, own_ssh.user)
    assert found.known_hosts == (own_ssh.known_hosts,)
    assert found.identities[0] == Path("/nonexistent/.ssh/id_ed25519")


@pytest.mark.parametrize("user", ["reader", "nobody"])
def test_user_without_rights(mongo_collection, mongo_server, ssh_server, set_all, user):
    mongo_collection.insert_one({"_id": 1})
    set_all(settings_of(mongo_server, ssh_server, user))
    runs = get_mongo_collection()
    if user == "reader":
        assert runs.find_one() == {"_id": 1}
    else:
        with pytest.raises(RunDatabaseRefused, match="nobody may not call find_one on run."):
            runs.find_one()
        with pytest.raises(RunDatabaseRefused, match="nobody may not call find .*role read$"):
            list(runs.find())
    with pytest.raises(RunDatabaseRefused, match=f"{user} may not .*insert_one.*role readWrite"):
        runs.insert_one({"_id": 2})
    with pytest.raises(RunDatabaseRefused, match=f"{user} may not .*update_one"):
        runs.update_one({"_id": 1}, {"$set": {"a": 1}})
    assert mongo_collection.count_documents({}) == 1


def test_wrong_password_of_mongodb(run_database_settings, monkeypatch):
    monkeypatch.setenv("MONGO_PASSWORD", "wrong-Pa55word")
    runs = get_mongo_collection()
    for _ in range(3):
        with pytest.raises(RunDatabaseRefused, match="refuses the log-in of writer: check MONGO_"):
            runs.find_one()


def test_no_user_of_mongodb(run_database_settings, monkeypatch):
    monkeypatch.delenv("MONGO_USER")
    monkeypatch.delenv("MONGO_PASSWORD")
    with pytest.raises(RunDatabaseRefused, match="requires a log-in: set MONGO_USER"):
        get_mongo_collection().find_one()


# ------------------------------------------------------------------------ the line drops


def test_same_client_goes_on_when_sshd_was_killed(own_ssh, caplog):
    client, runs = get_mongo_client(), get_mongo_collection()
    runs.insert_one({"_id": "sshd", "a": 1})
    address = client.address
    for _ in range(2):
        own_ssh.kill()
        own_ssh.start()
        assert runs.find_one({"_id": "sshd"}) == {"_id": "sshd", "a": 1}
        assert runs.update_one({"_id": "sshd"}, {"$set": {"a": 1}}).matched_count == 1
    assert get_mongo_client() is client
    assert client.address == address
    assert "tunnel to 127.0.0.1 is down" in caplog.text
    assert "tunnel to 127.0.0.1 is up again" in caplog.text
    runs.delete_one({"_id": "sshd"})


def test_plain_client_goes_on_too(own_ssh):
    client = get_mongo_client()
    assert client["run"]["runs_gas"].count_documents({}) >= 0
    own_ssh.kill()
    own_ssh.start()
    assert client["run"]["runs_gas"].count_documents({}) >= 0


def test_a_call_waits_for_sshd_to_come_back(own_ssh):
    runs = get_mongo_collection()
    runs.find_one()
    own_ssh.kill()
    wait_for(lambda: not is_up(only_connection().tunnel))
    later = threading.Timer(1.5, own_ssh.start)
    later.start()
    try:
        # Nothing has been sent yet, so that a write may wait as well
        runs.insert_one({"_id": "waited"})
    finally:
        later.join()
    assert runs.delete_one({"_id": "waited"}).deleted_count == 1


def test_sshd_stays_away(own_ssh, monkeypatch):
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "2")
    runs = get_mongo_collection()
    until_reached(runs.find_one)
    own_ssh.kill()
    wait_for(lambda: not is_up(only_connection().tunnel))
    with (
        AwakeTime() as time_taken,
        pytest.raises(RunDatabaseUnreachable, match="does not answer on port"),
    ):
        runs.find_one()
    assert time_taken.seconds < 10


def test_same_client_goes_on_when_mongodb_was_killed(own_mongo):
    client, runs = get_mongo_client(), get_mongo_collection()
    runs.insert_one({"_id": 1})
    own_mongo.kill()
    later = threading.Timer(1.0, own_mongo.start)
    later.start()
    try:
        assert runs.find_one() == {"_id": 1}
    finally:
        later.join()
    assert runs.update_one({"_id": 1}, {"$set": {"a": 1}}).modified_count == 1
    assert get_mongo_client() is client


def test_drop_while_a_long_list_is_read(own_ssh, mongo_server, monkeypatch):
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "2")
    with mongo_server.client() as client:
        client["run"].drop_collection("long_list")
        client["run"]["long_list"].insert_many([{"_id": i, "x": "x" * 1000} for i in range(2000)])
    runs = connection.get_collection("run", "long_list")

    def begin():
        cursor = runs.find(batch_size=10)
        next(cursor)
        return cursor

    cursor = until_reached(begin)
    own_ssh.kill()
    with pytest.raises(RunDatabaseUnreachable):
        list(cursor)
    own_ssh.start()
    assert len(until_reached(lambda: list(runs.find()))) == 2000


@pytest.mark.parametrize("frozen", ["ssh", "mongo"])
def test_frozen_connection(tmp_path, set_all, frozen):
    """Neither of them says anything any more: calls end in time, and go on when it thaws."""
    (tmp_path / "mongo").mkdir()
    (tmp_path / "ssh").mkdir()
    mongo = MongoServer(tmp_path / "mongo")
    ssh = SSHServer(tmp_path / "ssh", mongo.port)
    set_all(settings_of(mongo, ssh) | {"AMSTRAX_RUNDB_TIMEOUT": "1"})
    server = {"ssh": ssh, "mongo": mongo}[frozen]
    try:
        runs = get_mongo_collection()
        until_reached(runs.replace_one, {"_id": 1}, {"_id": 1}, True)
        server.signal(signal.SIGSTOP)
        for call, *arguments in (
            *[(runs.find_one,)] * 2,
            (runs.update_one, {"_id": 1}, {"$inc": {"n": 1}}),
        ):
            with AwakeTime() as time_taken, pytest.raises(RunDatabaseUnreachable):
                call(*arguments)
            assert time_taken.seconds < 10
        server.signal(signal.SIGCONT)
        assert until_reached(runs.find_one)["_id"] == 1
        # Nor did what was given up come through late and twice
        assert until_reached(runs.find_one).get("n", 0) <= 1
    finally:
        server.signal(signal.SIGCONT)
        connection.close()
        ssh.kill()
        mongo.kill()


def test_session_that_froze_is_replaced(own_ssh, monkeypatch):
    """As when a router forgets a connection: the old session is mute for good, new ones are not."""
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "2")
    runs = get_mongo_collection()
    until_reached(runs.replace_one, {"_id": "router"}, {"_id": "router"}, True)
    frozen = own_ssh._processes()[1:]
    assert frozen
    for process in frozen:
        # Of an attempt that came too late, a session may be about to end
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RunDatabaseUnreachable):
            runs.find_one({"_id": "router"})
        assert until_reached(runs.find_one, {"_id": "router"}) == {"_id": "router"}
    finally:
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
    until_reached(runs.delete_one, {"_id": "router"})


def test_frozen_session_is_closed_in_time(own_ssh):
    runs = get_mongo_collection()
    runs.find_one()
    own_ssh.signal(signal.SIGSTOP)
    try:
        with AwakeTime() as time_taken:
            connection.close()
        assert time_taken.seconds < 10
    finally:
        own_ssh.signal(signal.SIGCONT)


class Cutter:
    """A server before MongoDB that carries a request there, and cuts the line before the answer."""

    def __init__(self, port: int):
        self.port = port
        self.cut_next = threading.Event()
        self._listener = socket.create_server((LOCALHOST, 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((LOCALHOST, self.port))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(
                    target=self._carry, args=(source, sink, source is server), daemon=True
                ).start()

    def _carry(self, source, sink, is_answer):
        try:
            while data := source.recv(1 << 16):
                # Not the answers to the client's own questions on how the server is
                if is_answer and self.cut_next.is_set() and b"maxWireVersion" not in data:
                    self.cut_next.clear()
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


def test_what_is_sent_again_when_the_answer_is_lost(mongo_collection, mongo_server, set_all):
    """Reads and writes that may be; an increment is applied once, and its caller told."""
    cutter = Cutter(mongo_server.port)
    password = "".join(f"%{ord(c):02x}" for c in MONGO_USERS["writer"][0])
    host = f"{cutter.address[0]}:{cutter.address[1]}"
    uri = f"mongodb://writer:{password}@{host}/?authSource=admin"
    set_all({"AMSTRAX_MONGO_URI": uri, "AMSTRAX_RUNDB_TIMEOUT": "120"})
    runs = get_mongo_collection()
    runs.insert_one({"_id": 1, "number": 1, "n": 0})

    cutter.cut_next.set()
    assert runs.find_one({"_id": 1})["n"] == 0
    assert not cutter.cut_next.is_set()

    cutter.cut_next.set()
    assert runs.update_one({"number": 1}, {"$set": {"a": 1}}).matched_count == 1
    assert not cutter.cut_next.is_set()

    cutter.cut_next.set()
    with pytest.raises(RunDatabaseUnreachable, match="the write may have been applied"):
        runs.update_one({"number": 1}, {"$inc": {"n": 1}})
    assert runs.find_one()["n"] == 1

    cutter.cut_next.set()
    claim = {"number": 1, "owner": {"$in": [None, "me"]}}
    claimed = resilient(runs.find_one_and_update, claim, {"$set": {"owner": "me"}})
    assert claimed["number"] == 1
    assert not cutter.cut_next.is_set()
    cutter.close()


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "expected"),
    [
        ("update_one", ({"number": 1}, {"$set": {"a": 1}}), {}, True),
        (
            "update_one",
            ({"_id": 1, "name": "1"}, {"$unset": {"a": 1}, "$pull": {"b": 2}}),
            {},
            True,
        ),
        ("update_one", ({"_id": 1},), {"update": {"$addToSet": {"tags": "a"}}}, True),
        ("replace_one", ({"_id": 1}, {"a": 1}), {}, True),
        ("replace_one", ({"name": "1"}, {"name": "2"}), {}, False),
        ("create_index", ("name",), {}, True),
        ("update_one", ({"number": 1}, {"$inc": {"a": 1}}), {}, False),
        ("update_one", ({"number": 1}, {"$push": {"a": 1}}), {}, False),
        ("update_one", ({"number": 1}, {"$set": {"number": 2}}), {}, False),
        ("update_one", ({"number": 1, "owner": None}, {"$set": {"owner": "me"}}), {}, False),
        ("update_one", ({"number": {"$gt": 1}}, {"$set": {"a": 1}}), {}, False),
        ("update_one", ({}, {"$set": {"a": 1}}), {}, False),
        ("update_one", ({"number": 1}, [{"$set": {"a": 1}}]), {}, False),
        ("update_one", ({"number": 1}, {"$set": {"a": 1}}), {"upsert": True}, False),
        ("update_one", ({"number": 1}, {"$set": {"a": 1}}, True), {}, False),
        ("find_one_and_update", ({"number": 1}, {"$set": {"a": 1}}), {}, False),
        ("insert_one", ({"_id": 1},), {}, False),
        ("delete_one", ({"_id": 1},), {}, False),
    ],
)
def test_which_writes_are_sent_again(method, args, kwargs, expected):
    assert is_repeatable(method, args, kwargs) is expected


# ------------------------------------------------------------------------ threads and children


def test_threads_share_one_tunnel(own_ssh):
    runs, found, problems = get_mongo_collection(), [], []
    barrier = threading.Barrier(8)

    def work(number):
        barrier.wait()
        try:
            runs.insert_one({"_id": f"thread {number}"})
            found.append(runs.find_one({"_id": f"thread {number}"})["_id"])
            runs.delete_one({"_id": f"thread {number}"})
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sorted(found) == [f"thread {i}" for i in range(8)]
    assert own_ssh.said("Accepted publickey", 1) == 1


def test_threads_share_one_new_tunnel_after_a_drop(own_ssh):
    runs = get_mongo_collection()
    runs.find_one()
    own_ssh.kill()
    own_ssh.start()
    problems = []

    def work():
        try:
            for _ in range(5):
                runs.find_one()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert own_ssh.said("Accepted publickey", 2) == 2


def _child(runs, key, queue):
    try:
        port = get_mongo_client().address[1]
        runs.insert_one({"_id": key})
        queue.put((port, runs.find_one({"_id": key})["_id"]))
        # A child of a child
        if not key.endswith("child"):
            inner = multiprocessing.get_context("fork").Process(
                target=_child, args=(runs, f"{key} child", queue)
            )
            inner.start()
            inner.join(200)
    except Exception as error:
        queue.put(repr(error))


def test_forked_children_have_tunnels_of_their_own(
    own_ssh, mongo_collection, set_all, mongo_server
):
    # An sshd of its own, which has nothing left to say of earlier tests
    set_all(settings_of(mongo_server, own_ssh))
    fork = multiprocessing.get_context("fork")
    runs = get_mongo_collection()
    runs.insert_one({"_id": "parent"})
    client, queue = get_mongo_client(), fork.Queue()
    keys = [f"child {i}" for i in range(3)]
    children = [fork.Process(target=_child, args=(runs, k, queue)) for k in keys]
    for child in children:
        child.start()
    results = [queue.get(timeout=300) for _ in range(6)]
    # The parent goes on meanwhile, and after them, through the tunnel that it had
    assert runs.find_one({"_id": "parent"})
    for child in children:
        child.join(200)
        assert child.exitcode == 0
    assert sorted(key for _, key in results) == sorted(keys + [f"{k} child" for k in keys])
    assert client.address[1] not in [port for port, _ in results]
    assert runs.find_one({"_id": "parent"})
    assert get_mongo_client() is client
    assert runs.count_documents({}) == 7
    assert own_ssh.said("Accepted publickey", 7) == 7


def _busy_child(runs, number, queue):
    try:
        for i in range(3):
            runs.insert_one({"_id": f"child {number} {i}"})
        queue.put(runs.count_documents({"_id": {"$regex": f"^child {number} "}}))
    except Exception as error:
        queue.put(repr(error))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_children_are_forked_while_threads_are_at_work(mongo_collection):
    """Locks that threads of the parent hold at that moment are held for ever in the child."""
    mongo_collection.insert_one({"_id": "parent"})
    stop, problems = threading.Event(), []

    def work():
        try:
            while not stop.is_set():
                assert mongo_collection.find_one({"_id": "parent"})
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    children = [
        fork.Process(target=_busy_child, args=(mongo_collection, i, queue)) for i in range(6)
    ]
    try:
        for child in children:
            child.start()
            time.sleep(0.05)
        assert [queue.get(timeout=300) for _ in children] == [3] * 6
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for child in children:
            child.join(60)
            child.kill()
    assert not problems
    assert mongo_collection.count_documents({}) == 19


def test_parent_reconnects_while_a_child_lives(own_ssh):
    """The child must not hold on to the port, nor to the session, of its parent."""
    runs = get_mongo_collection()
    runs.find_one()
    address = get_mongo_client().address
    fork = multiprocessing.get_context("fork")
    stop = fork.Event()
    child = fork.Process(target=stop.wait, args=(500,))
    child.start()
    try:

        def held():
            found = psutil.Process(child.pid).net_connections("tcp")
            listening = {c.laddr for c in found if c.status == "LISTEN"}
            return listening | {c.raddr for c in found if c.raddr and c.raddr.port == own_ssh.port}

        wait_for(lambda: not held())
        own_ssh.kill()
        own_ssh.start()
        assert runs.count_documents({}) >= 0
        assert get_mongo_client().address == address
    finally:
        stop.set()
        child.join(200)
    assert child.exitcode == 0


_PROGRAM = """
import os, sys, threading
from amstrax.rundb.connection import get_mongo_client, get_mongo_collection
runs = get_mongo_collection()
runs.find_one()
print(get_mongo_client().address[1], flush=True)
if sys.argv[1] == "fork":
    pid = os.fork()
    if pid == 0:
        assert runs.count_documents({}) >= 0
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    runs.find_one()
elif sys.argv[1] == "error":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("how", "status"), [("end", 0), ("error", 3), ("fork", 0)])
def test_closed_at_exit(own_ssh, how, status):
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", _PROGRAM, how],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    assert "Error" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    port = int(done.stdout.split()[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOCALHOST, port), timeout=5)
    wait_for(lambda: len(own_ssh._processes()) == 1)
    sessions = 2 if how == "fork" else 1
    assert own_ssh.said("Accepted publickey", sessions) == sessions


_MANY_FILES = """
import os, resource, sys, threading
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
files = [open(os.devnull) for _ in range(1100)]
from amstrax.rundb import connection
runs = connection.get_mongo_collection()
big = "x" * 2_000_000
runs.insert_one({"_id": 1, "big": big})

def work(number):
    runs.insert_one({"_id": f"thread {number}"})
    good.append(runs.find_one({"_id": 1})["big"] == big)

good = []
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert good == [True] * 4, good
(only,) = connection._connections.values()
assert only.tunnel._transport.sock.fileno() > 1024
connection.close()
"""


def test_process_with_many_open_files(mongo_collection, ssh_server):
    """`select` fails for file descriptors from 1024 on."""
    done = subprocess.run(
        [sys.executable, "-c", _MANY_FILES], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert mongo_collection.count_documents({}) == 5


def test_concurrent_connections_with_large_replies(mongo_collection):
    """All get their own bytes, none is reset; each request has a new connection."""
    sizes = [2**n * 1000 + n for n in range(13)]
    mongo_collection.insert_many(
        [{"_id": n, "big": f"{n:x}" * size} for n, size in enumerate(sizes)]
    )
    address, problems = get_mongo_client().address, []
    barrier = threading.Barrier(12)

    def work(number):
        login = {"username": "writer", "password": MONGO_USERS["writer"][0]}
        try:
            barrier.wait()
            for n in range(number, number + 6):
                with pymongo.MongoClient(*address, directConnection=True, **login) as client:
                    found = client["run"]["runs_gas"].find_one({"_id": n % 13})
                assert found["big"] == f"{n % 13:x}" * sizes[n % 13]
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    # This process's own client has one for requests and two to watch the server
    wait_for(lambda: len(only_connection().tunnel._connections) <= 3, 20)


def test_connections_closed_in_the_middle_of_a_reply(own_ssh_to, monkeypatch):
    """They leave the session and the other connections alone.

    paramiko's pipe for a channel, which `select` needs, is closed while the session's thread writes
    to it: that fails and ends the session, or writes into a file that was opened meanwhile.
    """
    monkeypatch.setattr(paramiko.Channel, "fileno", lambda _channel: pytest.fail("makes a pipe"))

    def serve(server):
        with server, contextlib.suppress(OSError):
            while True:
                server.sendall(b"x" * 100)

    def listen():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server((LOCALHOST, 0), backlog=64) as listener:
        own_ssh_to(listener.getsockname()[1])
        threading.Thread(target=listen, daemon=True).start()
        tunnel_ = tunnel.Tunnel(settings.run_database())
        try:
            tunnel_.ensure()
            session, received = tunnel_._transport, []

            def work():
                for _ in range(20):
                    with socket.create_connection(tunnel_.address) as client:
                        received.append(client.recv(100))

            threads = [threading.Thread(target=work) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(received) == 120 and all(received)
            assert tunnel_._transport is session and session.is_active()
        finally:
            tunnel_.close()
            # Wakes the thread that waits for a connection
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("first_to_end", ["client", "server"])
def test_half_closed_connection_keeps_its_last_bytes(own_ssh_to, first_to_end):
    """The other side may still be sending when one has ended."""
    answer = os.urandom(3_000_000)
    with socket.create_server((LOCALHOST, 0)) as listener:
        own_ssh_to(listener.getsockname()[1])
        found = []

        def serve():
            server, _ = listener.accept()
            with server:
                if first_to_end == "server":
                    server.shutdown(socket.SHUT_WR)
                found.append(b"".join(iter(lambda: server.recv(1 << 16), b"")))
                if first_to_end == "client":
                    time.sleep(0.2)
                    server.sendall(answer)

        tunnel_ = tunnel.Tunnel(settings.run_database())
        try:
            with socket.create_connection(tunnel_.address) as client:
                thread = threading.Thread(target=serve, daemon=True)
                thread.start()
                if first_to_end == "server":
                    assert client.recv(1) == b""
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                if first_to_end == "client":
                    assert b"".join(iter(lambda: client.recv(1 << 16), b"")) == answer
                thread.join(120)
            assert found == [answer]
            wait_for(lambda: not tunnel_._connections)
        finally:
            tunnel_.close()


def test_closed_tunnel_leaves_nothing(own_ssh):
    before = {thread for thread in threading.enumerate() if thread.is_alive()}
    open_before = psutil.Process().num_fds()
    for _ in range(3):
        get_mongo_collection().find_one()
        connection.close()
    wait_for(lambda: not set(threading.enumerate()) - before)
    wait_for(lambda: psutil.Process().num_fds() <= open_before + 2)
    assert not connection._connections


# ------------------------------------------------------------------------ without any server


def test_embedded_store_with_no_settings(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "runs.sqlite"))
    with caplog.at_level(logging.INFO, logger="amstrax"):
        runs = get_mongo_collection()
        runs.insert_one({"_id": 1, "number": 1})
        assert get_mongo_collection("xams").find_one() == {"_id": 1, "number": 1}
        assert get_mongo_client()["run"]["runs_gas"].count_documents({}) == 1
    assert (tmp_path / "runs.sqlite").exists()
    said = [r for r in caplog.records if "the embedded run database" in r.getMessage()]
    assert len(said) == 1
    assert not isinstance(runs, Collection)


def test_errors_are_of_the_kinds_that_python_has():
    assert issubclass(RunDatabaseUnreachable, ConnectionError)
    assert issubclass(RunDatabaseRefused, PermissionError)
    assert issubclass(HostKeyRefused, ConnectionError)
    assert issubclass(RunDatabaseNotSet, ValueError)
    for kind in (RunDatabaseUnreachable, RunDatabaseRefused, HostKeyRefused, RunDatabaseNotSet):
        assert issubclass(kind, RunDatabaseError)
        assert str(kind("text")) == "text"


def test_resilient_gives_up(monkeypatch):
    """By a clock that nothing but its own pauses moves on."""
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    now, calls = [0.0], []

    class Clock:
        @staticmethod
        def monotonic():
            return now[0]

        @staticmethod
        def sleep(seconds):
            now[0] += seconds

    monkeypatch.setattr(connection, "time", Clock)

    def fail():
        calls.append(os.getpid())
        raise RunDatabaseUnreachable("away")

    with pytest.raises(RunDatabaseUnreachable, match="away"):
        resilient(fail)
    assert len(calls) == 4 and 1 - connection.PAUSE < now[0] <= 1


def test_retry_tells_of_each_error_and_may_be_ended():
    told, waits = [], []

    def fail():
        raise KeyError(len(waits))

    def on_error(error, left):
        told.append((error.args[0], left > 0))

    with pytest.raises(KeyError):
        retry(fail, 0.0, (KeyError,), wait=waits.append, on_error=on_error)
    assert told == [(0, False)] and not waits

    def give_up(error, _left):
        if len(waits) == 3:
            raise ValueError from error

    with pytest.raises(ValueError):
        retry(fail, 1e9, (KeyError,), pause=7.0, wait=waits.append, on_error=give_up)
    assert waits == [7.0] * 3
    with pytest.raises(KeyError):
        retry(fail, 1e9)
    assert retry(lambda: 1 / len(waits), 0.0) == 1 / 3
