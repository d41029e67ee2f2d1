"""What commands share."""

import argparse
import errno
import logging
from pathlib import Path

import pytest

from amstrax import strict_json
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.commands import base


@pytest.mark.parametrize(
    ("file", "option"),
    [
        ("plots/gains.png", "--plot"),
        ("plots", "--plot"),  # a folder that cannot be made
        ("corrections/gain_v1.json", "--write"),
        ("processed/006724-events-abc/metadata.json", "--output_folder"),
        ("elsewhere/file", "--log_folder"),
        (None, "--log_folder"),
    ],
)
def test_errors_of_files_name_the_option(tmp_path, monkeypatch, capsys, file, option):
    monkeypatch.chdir(tmp_path)
    args = argparse.Namespace(
        run_ids=["006724"],
        plot=Path("plots/gains.png"),
        write=[Path("corrections/gain_v1.json")],
        output_folder=tmp_path / "processed",
        debug=False,
    )

    def fail(stop):
        raise OSError(errno.EROFS, "Read-only file system", file and str(tmp_path / file))

    log = logging.getLogger("amstrax.test")
    assert base.run_tool(args, log, fail, "the gains", "the logs", "--log_folder") == 1
    assert capsys.readouterr().err.endswith(f"or set another {option}\n")


def test_a_file_is_replaced_whole_or_not(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with (
        pytest.raises(OSError, match="No space left") as caught,
        strict_json.replacing(path) as new,
    ):
        new.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="other"), strict_json.replacing(path):
        raise OSError(errno.EACCES, "Permission denied", "other")
    assert [x.read_text() for x in tmp_path.iterdir()] == ["old"]
    with strict_json.replacing(path) as new:
        new.write_text("new")
    assert [x.read_text() for x in tmp_path.iterdir()] == ["new"]


def test_a_line_that_cannot_be_formatted_stops_nothing(tmp_path, capsys):
    handler = base.DatedFileHandler(tmp_path, "tool")
    for text in ("%d", "%s"):
        handler.handle(logging.LogRecord("x", logging.INFO, __file__, 1, text, ("word",), None))
    assert "Logging error" in capsys.readouterr().err
    [path] = tmp_path.glob("*/tool.log")
    assert path.read_text() == "word\n"


def test_errors_of_one_of_several_runs_name_the_option(tmp_path):
    options = ProcessingOptions(live_data_dir=tmp_path / "live", output_folder=tmp_path / "out")
    for folder, option in (("live", "--live_data_dir"), ("out", "--output_folder"), ("x", "--x")):
        error = OSError(errno.EACCES, "Permission denied", str(tmp_path / folder / "000007/file"))
        text = base.describe_failure(error, options, "run 000007", "there", "--x")
        assert text.endswith(f"Check its permissions, or set another {option}")
