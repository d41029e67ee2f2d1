"""Settings of the machine, from the environment and from a file."""

import os
from pathlib import Path

import pytest

from amstrax import settings
from amstrax.exceptions import AmstraxError, InvalidOption

NAMES = [f"{d}_{kind}_DATA" for d in ("XAMS", "XAMSL") for kind in ("LIVE", "RAW", "PROCESSED")]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Path of a file of settings that does not exist yet; the environment has none either."""
    for name in (*NAMES, "SOME_SETTING"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config"
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


def test_folder(config, tmp_path, monkeypatch):
    assert settings.folder("SOME_SETTING") is None
    monkeypatch.setenv("SOME_SETTING", str(tmp_path))
    assert settings.folder("SOME_SETTING") == tmp_path
    monkeypatch.setenv("SOME_SETTING", str(tmp_path / "none"))
    assert settings.folder("SOME_SETTING") is None
    (tmp_path / "none").touch()
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
