"""All places that name the version of amstrax agree, and a release changes them all."""

import configparser
import re
from pathlib import Path

import pytest

import amstrax

ROOT = Path(__file__).resolve().parents[1]

# file -> the line in it that names the version
PLACES = {
    "setup.py": r'^\s*version="([^"]+)",$',
    "amstrax/__init__.py": r'^__version__ = "([^"]+)"$',
    "CITATION.cff": r"^version: (\S+)$",
    "docs/source/conf.py": r'^release = "([^"]+)"$',
}

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def bumpversion():
    config = configparser.ConfigParser(interpolation=None)
    config.read_string((ROOT / ".bumpversion.cfg").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize("place", PLACES)
def test_place_names_the_version_of_the_package(place):
    path = ROOT / place
    found = re.findall(PLACES[place], path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == [amstrax.__version__]


def test_newest_heading_of_history_is_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "HISTORY.md").read_text(encoding="utf-8"), re.M)
    assert headings, "HISTORY.md has no heading like '## 3.0.0 (2026-11-22)'"
    assert headings[0] == amstrax.__version__
    assert len(headings) == len(set(headings))


def test_bumpversion_knows_the_version(bumpversion):
    assert bumpversion["bumpversion"]["current_version"] == amstrax.__version__


@pytest.mark.parametrize("place", PLACES)
def test_bumpversion_finds_what_to_replace(place, bumpversion):
    section = bumpversion[f"bumpversion:file:{place}"]
    assert section["search"].replace("{current_version}", "{new_version}") == section["replace"]
    path = ROOT / place
    search = section["search"].format(current_version=amstrax.__version__)
    assert path.read_text(encoding="utf-8").count(search) == 1


def test_bumpversion_changes_no_other_file(bumpversion):
    files = {s.removeprefix("bumpversion:file:") for s in bumpversion if ":file:" in s}
    assert files == set(PLACES)
