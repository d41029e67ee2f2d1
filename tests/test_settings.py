"""Settings of the machine, from the environment and from a file."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from live_runs import as_nobody

from amstrax import settings
from amstrax.exceptions import AmstraxError, InvalidOption, RunDatabaseNotSet
from amstrax.rundb import RunDB
from amstrax.rundb.connection import get_mongo_client, get_mongo_collection, is_embedded

NAMES = [f"{d}_{kind}_DATA" for d in ("XAMS", "XAMSL") for kind in ("LIVE", "RAW", "PROCESSED")]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Path of a file of settings that is empty yet; the environment has none either."""
    for name in (*NAMES, *settings.RUN_DATABASE, "SOME_SETTING"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config"
    path.touch()
    monkeypatch.setenv("AMSTRAX_CONFIG", str(path))
    return path


def test_path(config, monkeypatch):
    assert settings.config_path() == config
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("AMSTRAX_CONFIG", "~/other")
    assert settings.config_path() == Path("/somebody/other")
    monkeypatch.setenv("AMSTRAX_CONFIG", "")
    assert settings.config_path() == Path("/somebody/.xams_config")
    monkeypatch.delenv("AMSTRAX_CONFIG")
    assert settings.config_path() == Path("/somebody/.xams_config")


def test_set_nowhere(config):
    assert settings.get("SOME_SETTING") is None
    assert settings.get("SOME_SETTING", "default") == "default"
    config.write_text("[default]\nSOME_SETTING =\nOTHER = 1\n")
    assert settings.get("SOME_SETTING") is None
    assert settings.get("SOME_SETTING", "default") == "default"
    config.write_text("")
    assert settings.get("SOME_SETTING") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[default]\nSOME_SETTING = one\n", "one"),
        ("[default]\nsome_setting: one two\n", "one two"),
        ("# comment\n[default]\nSOME_SETTING = 100%\n", "100%"),
        ("[default]\nSOME_SETTING = a=b\n", "a=b"),
        ("[default]\nSOME_SETTING = caf\N{LATIN SMALL LETTER E WITH ACUTE}\n", "caf\xe9"),
        ("[other]\nSOME_SETTING = one\n", None),
        ("[other]\nSOME_SETTING = one\n[default]\nSOME_SETTING = two\n", "two"),
    ],
)
def test_from_the_file(config, text, value):
    config.write_text(text, encoding="utf-8")
    assert settings.get("SOME_SETTING") == value


def test_environment_goes_before_the_file(config, monkeypatch):
    config.write_text("[default]\nSOME_SETTING = file\n")
    monkeypatch.setenv("SOME_SETTING", "environment")
    assert settings.get("SOME_SETTING", "default") == "environment"
    monkeypatch.setenv("SOME_SETTING", "")
    assert settings.get("SOME_SETTING", "default") == "file"


def test_file_is_read_each_time(config):
    config.write_text("[default]\nSOME_SETTING = one\n")
    assert settings.get("SOME_SETTING") == "one"
    config.write_text("[default]\nSOME_SETTING = two\n")
    assert settings.get("SOME_SETTING") == "two"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("PASSWORD = secret\n", "MissingSectionHeaderError"),
        ("[default]\nPASSWORD secret\n", "ParsingError"),
        ("[default]\nPASSWORD = secret\npassword = secret\n", "DuplicateOptionError"),
        ("[default]\n[default]\n", "DuplicateSectionError"),
    ],
)
def test_what_is_no_file_of_settings(config, text, kind):
    config.write_text(text)
    with pytest.raises(InvalidOption, match=kind) as error:
        settings.get("SOME_SETTING")
    assert isinstance(error.value, ValueError)
    assert str(config) in str(error.value)
    # lines of the file are for nobody's log, neither here nor in what caused it
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


#: Why a file of settings cannot be used: how it comes about, and what is said
UNUSABLE = {
    "missing": (lambda path: path.unlink(), "cannot be read .No such file.*AMSTRAX_CONFIG"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read .Is a directory"),
    "loop": (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read .Too many lev"),
    "below_a_file": (None, "cannot be read .Not a directory"),
    "latin1": ("[default]\nA = caf\xe9\n".encode("latin-1"), "UnicodeDecodeError"),
    "utf16": ("[default]\nDAQ_HOST = daq\n".encode("utf-16"), "not a file of settings"),
    "NUL": (b"[default]\nDAQ_HOST = daq\0\n", "DAQ_HOST holds a NUL character"),
    "DEFAULT": (b"[DEFAULT]\nDAQ_HOST = daq\n", r"DAQ_HOST in section .DEFAULT., .*to .default."),
    "Default_empty": (b"[Default]\n", r"section .Default., .*did you mean .default.\?"),
    "defaults": (b"[defaults]\nMINE = 1\n", r"section .defaults., .*did you mean .default."),
    "other": (b"[rundb]\nmongo_user = me\n", r"MONGO_USER in section .rundb., .*to .default."),
    "no_section": (b"DAQ_HOST = daq\n", "MissingSectionHeaderError.*below .default."),
    "twice": (b"[default]\nDAQ_HOST = a\ndaq_host = b\n", "DuplicateOptionError, line 3"),
    "no_value": (b"[default]\nDAQ_HOST\n", "ParsingError, line 2"),
    "indented": (b"[default]\nDAQ_HOST = a\n  DAQ_USER = b\n", "line after DAQ_HOST is indented"),
    "misspelt": (b"[default]\nDAQ_HSOT = a\n", "no setting DAQ_HSOT .*did you mean DAQ_HOST"),
    "no_prefix": (b"[default]\nRUNDB_PATH = /a\n", "did you mean AMSTRAX_RUNDB_PATH"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_file_that_cannot_be_used_is_no_file_without_settings(
    config, monkeypatch, caplog, tmp_path, case
):
    """Not even for a setting that is not in it: the embedded run database would be used."""
    change, reason = UNUSABLE[case]
    if change is None:
        monkeypatch.setenv("AMSTRAX_CONFIG", str(config / "below"))
    elif isinstance(change, bytes):
        config.write_bytes(change)
    else:
        change(config)
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "runs.sqlite"))
    ways = (
        settings.run_database,
        settings.corrections,
        settings.engine,
        lambda: settings.live_data("xams"),
        get_mongo_collection,
        get_mongo_client,
        lambda: RunDB().find_several([]) or RunDB().run_metadata("000001"),
    )
    for way in ways:
        with pytest.raises(InvalidOption, match=reason) as error:
            way()
        assert str(config) in str(error.value) and len(str(error.value)) <= 200 + len(str(config))
    assert "embedded" not in caplog.text and not (tmp_path / "runs.sqlite").exists()


def test_default_file_need_not_exist_but_a_link_to_nowhere_does(monkeypatch, tmp_path):
    monkeypatch.delenv("AMSTRAX_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.get("DAQ_HOST") is None
    (tmp_path / ".xams_config").symlink_to(tmp_path / "away")
    with pytest.raises(InvalidOption, match="xams_config cannot be read .No such file"):
        settings.get("DAQ_HOST")
    (tmp_path / "away").write_text("\ufeff[default]\nDAQ_HOST = daq\n", encoding="utf-8")
    assert settings.get("DAQ_HOST") == "daq"


@pytest.mark.skipif(os.getuid() != 0, reason="gives up the rights of root")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_file_without_permission(tmp_path, what):
    """By a process of a user who may not read it."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        (folder / ".xams_config").write_text("[default]\nDAQ_HOST = daq\n")
        (folder / ".xams_config").chmod(0o600 if what == "file" else 0o644)
        folder.chmod(0o755 if what == "file" else 0o700)
        code = (
            "import os, sys; os.setgid(65534); os.setuid(65534)\n"
            "from amstrax.rundb.connection import get_mongo_collection\n"
            "try: get_mongo_collection()\n"
            "except Exception as error: print(type(error).__name__, error)\n"
        )
        environment = {k: v for k, v in os.environ.items() if k != "AMSTRAX_CONFIG"}
        done = subprocess.run(
            [sys.executable, "-c", f"import amstrax.rundb.connection\n{code}"],
            env=environment | {"HOME": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(f"InvalidOption the file of settings {folder}/.xams_config")
        assert "Permission denied" in done.stdout
    finally:
        shutil.rmtree(folder)


def test_home_that_is_unknown(monkeypatch):
    """A container with a user id without a name: nothing is set, and paths must be whole."""
    monkeypatch.delenv("AMSTRAX_CONFIG")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_123)
    assert settings.get("DAQ_HOST") is None
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", "~/runs")
    with pytest.raises(InvalidOption, match="'~/runs': user .* has no home folder: set HOME"):
        settings.rundb_path()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AMSTRAX_RUNDB_PAHT", "AMSTRAX_RUNDB_PATH"),
        ("AMSTRAX_CONFG", "AMSTRAX_CONFIG"),
        ("AMSTRAX_MONGOURI", "AMSTRAX_MONGO_URI"),
        ("XAMS_LIVEDATA", "XAMS_LIVE_DATA"),
        ("DAQ_HSOT", "DAQ_HOST"),
        ("MONGO_PASSWROD", "MONGO_PASSWORD"),
    ],
)
def test_misspelt_name_in_the_environment(monkeypatch, name, meant):
    monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidOption, match=f"no setting {name} .in the environment.: .*{meant}"):
        settings.run_database()


def test_names_of_other_programs(config, monkeypatch):
    for name in (
        *("MONGO_URI", "MONGO_PASSWORD_FILE", "MONGO_DB_PASSWORD", "MONGODB_HOST", "MONGO_AUTH"),
        *("DAQ_SOMETHING", "DAQ_USER_ID", "XAMSTER", "XAMS_LIVE_DATA_OLD", "AMSTRAX_HOME"),
        *("MONGO_HOSTS", "DAQ_PORTS"),
    ):
        monkeypatch.setenv(name, "x")
    config.write_text("[default]\nEDITOR = vi\n[straxen]\nurl = x\n")
    assert settings.run_database().given == frozenset()
    # Only the run database is configured by variables of this kind
    monkeypatch.setenv("MONGO_HSOT", "x")
    assert settings.live_data("xams") is None
    assert settings.corrections().folder == ""
    with pytest.raises(InvalidOption, match="did you mean MONGO_HOST"):
        settings.run_database()
    monkeypatch.setenv("MONGO_HOST", "y")
    assert settings.run_database().mongo_host == "y"


def test_similar_names_in_a_file_where_the_right_ones_are_set(config):
    """As in files that served other tools, too."""
    config.write_text(
        "[default]\nDAQ_HOST = a\nDAQ_HOSTS = b\nMONGO_PASSWORD = c\nMONGO_PDB_PASSWORD = d\n"
        "XAMS_LIVE_DATA_OLD = /e\nMONGO_URL = f\n[default_old]\nDAQ_HOST = g\n"
    )
    config.chmod(0o600)
    assert settings.run_database().given == {"DAQ_HOST", "MONGO_PASSWORD"}


@pytest.mark.parametrize("name", [n for n in settings.RUN_DATABASE if n[0] in "DM"])
def test_settings_of_mongodb_without_a_host(config, name, tmp_path):
    """Each of them says that MongoDB is meant, and not a file on this machine."""
    value = "22" if name.endswith("_PORT") else "x"
    config.write_text(f"[default]\n{name} = {value}\n")
    config.chmod(0o600)
    link = settings.run_database()
    if name == "DAQ_HOST":
        assert not is_embedded(link)
        return
    with pytest.raises(RunDatabaseNotSet, match=f"{name} is set, but DAQ_HOST is not: set DAQ"):
        get_mongo_collection()
    with pytest.raises(RunDatabaseNotSet, match=name):
        RunDB().run_metadata("000001")


def test_numbers_name_the_file(config):
    config.write_text("[default]\nDAQ_HOST = daq\nMONGO_PORT = abc\n")
    with pytest.raises(InvalidOption, match=f"MONGO_PORT is 'abc'.*{config}"):
        settings.run_database()


def test_folder_that_is_none(config, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOME_SETTING", str(tmp_path / "file"))
    with pytest.raises(InvalidOption, match="SOME_SETTING is .*Not a directory.*environment"):
        settings.folder("SOME_SETTING")
    monkeypatch.setenv("SOME_SETTING", str(tmp_path / "away"))
    for _ in range(2):
        assert settings.folder("SOME_SETTING") is None
    (record,) = caplog.records
    assert f"the folder {tmp_path / 'away'} of the setting SOME_SETTING" in record.getMessage()


def test_folder(config, tmp_path, monkeypatch):
    assert settings.folder("SOME_SETTING") is None
    monkeypatch.setenv("SOME_SETTING", str(tmp_path))
    assert settings.folder("SOME_SETTING") == tmp_path
    monkeypatch.setenv("SOME_SETTING", str(tmp_path / "none"))
    assert settings.folder("SOME_SETTING") is None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOME_SETTING", "~")
    assert settings.folder("SOME_SETTING") == tmp_path


@pytest.mark.parametrize("detector", ["xams", "xamsl"])
def test_folders_of_a_detector(config, tmp_path, detector):
    finders = settings.live_data, settings.raw_data, settings.processed_data
    assert [finder(detector) for finder in finders] == [None] * 3
    lines = ["[default]"]
    for name in NAMES:
        (tmp_path / name.lower()).mkdir()
        lines.append(f"{name} = {tmp_path / name.lower()}")
    config.write_text(os.linesep.join(lines))
    assert [finder(detector) for finder in finders] == [
        tmp_path / f"{detector}_{kind}_data" for kind in ("live", "raw", "processed")
    ]


@pytest.mark.parametrize("detector", ["XAMS", "xenonnt", ""])
def test_unknown_detector(config, detector):
    for finder in (settings.live_data, settings.raw_data, settings.processed_data):
        with pytest.raises(InvalidOption, match="take one of xams, xamsl") as error:
            finder(detector)
        assert repr(detector) in str(error.value)


def test_file_of_settings_in_another_encoding(tmp_path, monkeypatch):
    """UnicodeDecodeError, though get() promises InvalidOption for a file it cannot read."""
    path = tmp_path / "config"
    path.write_bytes("[default]\nSOME_SETTING = /data/caf\xe9\n".encode("latin-1"))
    monkeypatch.setenv("AMSTRAX_CONFIG", str(path))
    with pytest.raises(AmstraxError, match="config"):
        settings.get("SOME_SETTING")


def test_where_a_setting_is_from(config, monkeypatch):
    assert settings.find("SOME_SETTING") == ("", "")
    config.write_text("[default]\nSOME_SETTING = file\n")
    assert settings.find("SOME_SETTING") == ("file", str(config))
    monkeypatch.setenv("SOME_SETTING", "set")
    assert settings.find("SOME_SETTING") == ("set", "environment")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_file_with_secrets_that_others_can_read(config, caplog, mode):
    config.write_text("[default]\nDAQ_HOST = somewhere\nDAQ_PASSWORD = S3cret\n")
    config.chmod(mode)
    assert settings.get("DAQ_HOST") == "somewhere"
    assert not caplog.records
    for _ in range(3):
        assert settings.get("DAQ_PASSWORD") == "S3cret"
        settings.run_database()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"others can read it: chmod 600 {config}" in record.getMessage()
    assert "S3cret" not in caplog.text


def test_file_with_secrets_that_is_for_its_owner(config, caplog):
    config.write_text("[default]\nDAQ_PASSWORD = S3cret\n")
    config.chmod(0o600)
    assert settings.run_database().daq_password == "S3cret"
    assert not caplog.records


def test_secret_of_the_environment_needs_no_file(config, caplog, monkeypatch):
    config.write_text("[default]\nDAQ_PASSWORD = S3cret\n")
    config.chmod(0o644)
    monkeypatch.setenv("DAQ_PASSWORD", "other")
    assert settings.get("DAQ_PASSWORD") == "other"
    assert not caplog.records


def test_run_database_with_nothing_set(config, monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("LOGNAME", "me")
    monkeypatch.delenv("XDG_DATA_HOME")
    link = settings.run_database()
    assert (link.uri, link.daq_host, link.mongo_user) == ("", "", "")
    assert (link.daq_port, link.daq_user, link.daq_key_file) == (22, "me", None)
    assert (link.mongo_host, link.mongo_port, link.mongo_auth_db) == ("127.0.0.1", 27017, "admin")
    assert link.known_hosts[0] == Path("/somebody/.ssh/known_hosts")
    assert link.path == Path("/somebody/.local/share/amstrax/rundb.sqlite")
    assert link.timeout == 20
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings.run_database().path == Path("/data/amstrax/rundb.sqlite")
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", "~/runs")
    assert settings.run_database().path == Path("/somebody/runs")


def test_run_database_from_the_file(config, monkeypatch):
    values = {
        "DAQ_HOST": "daq",
        "DAQ_PORT": "2222",
        "DAQ_USER": "them",
        "DAQ_KEY_FILE": "~/key",
        "DAQ_KNOWN_HOSTS": "~/hosts",
        "MONGO_PORT": "27018",
        "AMSTRAX_RUNDB_TIMEOUT": "2.5",
        **{name: f"S3cret of {name}" for name in settings.SECRETS},
    }
    config.write_text("[default]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()))
    config.chmod(0o600)
    monkeypatch.setenv("HOME", "/somebody")
    link = settings.run_database()
    assert (link.daq_host, link.daq_port, link.daq_user) == ("daq", 2222, "them")
    assert link.daq_key_file == Path("/somebody/key")
    assert link.known_hosts == (Path("/somebody/hosts"),)
    assert (link.mongo_port, link.timeout) == (27018, 2.5)
    assert link.uri == "S3cret of AMSTRAX_MONGO_URI"
    # No secret is in its repr, which tracebacks and logs may show
    assert "daq" in repr(link)
    assert "S3cret" not in repr(link)
    # What is given goes before all of it
    link = settings.run_database("host", "user")
    assert (link.uri, link.daq_host, link.daq_user) == ("", "host", "user")


@pytest.mark.parametrize("text", ["ten", "nan", "0", "65536", "1e9", "-1"])
def test_numbers(config, monkeypatch, text):
    monkeypatch.setenv("MONGO_PORT", text)
    with pytest.raises(InvalidOption, match="the setting MONGO_PORT is .*from 1 to 65535"):
        settings.run_database()


def test_settings_of_jobs(config, monkeypatch, tmp_path):
    for name in settings.BATCH:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert settings.engine() == "local" and settings.batch("AMSTRAX_QUEUE") == ""
    assert settings.job_memory() == 2000
    assert settings.local_jobs() == len(os.sched_getaffinity(0))
    assert settings.local_folder() == Path("/somebody/.local/state/amstrax/jobs")
    # What one lab's cluster wants is not what others do
    assert settings.batch("AMSTRAX_CONDOR_ATTRIBUTES") == ""
    config.write_text(
        "[default]\nAMSTRAX_ENGINE = slurm\nAMSTRAX_JOB_MEMORY = 4000\nAMSTRAX_LOCAL_JOBS = 3\n"
    )
    assert (settings.engine(), settings.job_memory(), settings.local_jobs()) == ("slurm", 4000, 3)
    monkeypatch.setenv("AMSTRAX_LOCAL_FOLDER", str(tmp_path / "jobs"))
    assert settings.local_folder() == tmp_path / "jobs"
    monkeypatch.setenv("AMSTRAX_JOB_MEMORY", "much")
    with pytest.raises(InvalidOption, match="the setting AMSTRAX_JOB_MEMORY is 'much'"):
        settings.job_memory()


@pytest.mark.parametrize(
    "page", ["run_database", "corrections", "processing_on_the_cluster", "dashboard", "releases"]
)
def test_page_has_all_settings(page):
    text = (Path(__file__).parents[1] / f"docs/source/{page}.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   \* - ``([A-Z]+_[A-Z_]+)``$", text, re.M)
    named = {
        "run_database": settings.RUN_DATABASE,
        "corrections": settings.CORRECTIONS,
        "processing_on_the_cluster": (*settings.BATCH, *settings.COPY),
        "dashboard": (*settings.ALARMS, *settings.DASHBOARD),
        "releases": settings.CONTEXTS,
    }
    assert listed == list(named[page])


def test_user_id_without_a_name(tmp_path):
    """In a process of its own: settings can be read, and its name is the number."""
    code = """
from amstrax import settings
from amstrax.exceptions import InvalidOption
print(settings.login_name(), settings.run_database().daq_user, settings.corrections().timeout)
print(settings.get("DAQ_HOST", "none"), settings.config_path().exists())
for path in (settings.local_folder, lambda: settings.expanded("~/x")):
    try:
        path()
    except InvalidOption as error:
        print(error)
"""
    done = as_nobody([sys.executable, "-c", code], AMSTRAX_CONFIG="")
    assert done.returncode == 0, done.stderr
    first, second, *errors = done.stdout.splitlines()
    assert (first, second) == ("54321 54321 10", "none False")
    assert len(errors) == 2
    assert all("user 54321 has no home folder: set HOME, or write" in error for error in errors)


def test_nobody_else_asks_for_the_user_or_the_home_folder():
    """Either fails in containers: `login_name` and `expanded` do not, or say what to do."""
    package = Path(settings.__file__).parent
    asks = re.compile(r"getpass\.getuser|os\.getlogin|\.expanduser\(|Path\.home\(|environ.*HOME\b")
    found = [
        path.name for path in sorted(package.rglob("*.py")) if asks.search(path.read_text("utf-8"))
    ]
    assert found == ["settings.py"]
