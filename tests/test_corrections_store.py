"""Where correction files are looked for, and what versions and strings of options mean."""

import importlib
import shutil
import subprocess
import sys

import pytest
from corrections_files import ELIFE, publisher, write_files

import amstrax
from amstrax import strict_json
from amstrax.corrections import lookup, store
from amstrax.exceptions import (
    AmstraxError,
    CorrectionNotFound,
    InvalidCorrection,
    InvalidOption,
    RunNotCovered,
)

GLOBAL = {
    "elife": "elife_v1.json",
    "s1_min_area": 1,
    "pos_rec_params": [[1, 2], [3, 4]],
    "electron_drift_time_gate": 5000,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in the settings, with a few files."""
    path = write_files(tmp_path / "folder", elife_v1=ELIFE, _global_v1=GLOBAL)
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(path))
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package amstrax_files, which must not be imported."""
    path = tmp_path / "site" / "amstrax_files"
    path.mkdir(parents=True)
    (path / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(path.parent)
    importlib.invalidate_caches()
    yield path
    assert "amstrax_files" not in sys.modules


def test_folder_goes_before_package_and_server(folder, package, monkeypatch):
    write_files(package / "corrections", elife_v1={"000001": 2}, elife_v2={"000001": 3})
    with publisher() as server:
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_TIMEOUT", "120")
        monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", f"{server.address}/{{branch}}")
        server.files["/master/elife/elife_v2.json"] = '{"000001": 4}'
        server.files["/master/elife/elife_v3.json"] = '{"000001": 5}'
        found = [amstrax.get_correction(f"elife_v{i}.json") for i in (1, 2, 3)]
        # What the package has is of the branch master
        server.files["/other/elife/elife_v2.json"] = '{"000001": 6}'
        assert amstrax.get_correction("elife_v2.json", "other") == {"000001": 6}
    assert found == [ELIFE, {"000001": 3}, {"000001": 5}]


@pytest.mark.parametrize("inner", ["", "corrections", "data", "data/corrections"])
def test_folders_of_the_package(package, inner):
    write_files(package / inner, elife_v1=ELIFE)
    assert amstrax.get_correction("elife_v1.json") == ELIFE


def pth(repo, site):
    """Editable install by a path file."""
    (site / "__editable__.amstrax_files-0.0.0.pth").write_text(f"{repo}\n")


def finder(repo, site):
    """Editable install by a finder, as setuptools makes for this layout."""
    (site / "amstrax_files_finder.py").write_text(
        "import sys\n"
        "from importlib.util import spec_from_file_location\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'amstrax_files':\n"
        f"            return spec_from_file_location(name, '{repo}/amstrax_files/__init__.py')\n"
        "sys.meta_path.append(Finder)\n"
    )
    (site / "__editable__.amstrax_files-0.0.0.pth").write_text("import amstrax_files_finder\n")


def link(repo, site):
    """A link to the package alone."""
    (site / "amstrax_files").symlink_to(repo / "amstrax_files")


def clone_in_path(repo, site):
    """The folder above the clone, which is called as the package is."""
    (site / "clones.pth").write_text(f"{repo.parent}\n")


def with_data(repo, site):
    """A regular install that has the corrections within the package."""
    shutil.copytree(repo / "amstrax_files", site / "amstrax_files")
    shutil.copytree(repo / "corrections", site / "amstrax_files/corrections")


@pytest.mark.parametrize("install", [pth, finder, link, clone_in_path, with_data])
def test_installed_package_is_found_with_nothing_set(install, tmp_path, shared):
    """In a process of its own, since path files are read when Python starts."""
    repo, site = tmp_path / "clones/amstrax_files", tmp_path / "site"
    for folder in (site, repo / "amstrax_files"):
        folder.mkdir(parents=True)
    (repo / "amstrax_files/__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(shared / "data/corrections", repo / "corrections")
    install(repo, site)
    program = (
        f"import site; site.addsitedir({str(site)!r})\n"
        "import amstrax\n"
        "st = amstrax.contexts.xams(corrections_version='ONLINE', init_rundb=False)\n"
        "print(st.get_single_plugin('002230', 'corrected_areas').elife)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "275000.0\n"


def test_file_that_is_nowhere_names_all_places(folder, package, monkeypatch):
    with pytest.raises(CorrectionNotFound) as info:
        amstrax.get_correction("elife_v7.json")
    for text in ("elife_v7.json", str(folder), str(package), "AMSTRAX_CORRECTIONS_URL"):
        assert text in str(info.value)
    assert isinstance(info.value, FileNotFoundError)
    monkeypatch.delenv("AMSTRAX_CORRECTIONS_FOLDER")
    with pytest.raises(CorrectionNotFound, match="AMSTRAX_CORRECTIONS_FOLDER or AMST"):
        amstrax.get_correction("elife_v7.json")


def test_folder_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path / "nothing"))
    with pytest.raises(InvalidOption, match="AMSTRAX_CORRECTIONS_FOLDER.*nothing"):
        amstrax.get_correction("elife_v1.json")


def test_folder_for_each_branch(tmp_path, monkeypatch):
    for branch, value in (("master", 1), ("mine", 2)):
        write_files(tmp_path / branch, elife_v1={"000001": value})
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", f"{tmp_path}/{{branch}}")
    assert amstrax.get_correction("elife_v1.json") == {"000001": 1}
    assert amstrax.get_correction("elife_v1.json", branch="mine") == {"000001": 2}


def test_one_folder_for_all_branches_is_said_once(folder, caplog, monkeypatch):
    monkeypatch.setattr(store, "_warned", set())
    for _ in range(2):
        assert amstrax.get_correction("elife_v1.json", "mine") == ELIFE
    (record,) = caplog.records
    assert "mine" in record.getMessage() and str(folder) in record.getMessage()


def test_malformed_file_does_not_make_way_for_the_next_place(folder, package):
    write_files(folder, elife_v1='{"000001" 2}')
    write_files(package, elife_v1=ELIFE)
    with pytest.raises(InvalidCorrection, match=f"{folder}.*elife_v1.json, line 1, column 11"):
        amstrax.get_correction("elife_v1.json")
    (folder / "elife" / "elife_v1.json").write_bytes(b'{"000001": "\xe9"}')
    with pytest.raises(InvalidCorrection, match="elife_v1.json cannot be read: byte 13"):
        amstrax.get_correction("elife_v1.json")


def test_file_is_read_each_time(folder):
    assert amstrax.get_correction("elife_v1.json") == ELIFE
    amstrax.get_correction("elife_v1.json").clear()
    assert amstrax.get_correction("elife_v1.json") == ELIFE
    write_files(folder, elife_v1={})
    assert amstrax.get_correction("elife_v1.json") == {}


def test_options_of_a_version_to_the_letter(folder):
    assert lookup.options("v1") == {
        "elife": "file://elife?filename=elife_v1.json&github_branch=master",
        "s1_min_area": 1,
        "pos_rec_params": ((1, 2), (3, 4)),
        "drift_time_gate": 5000,
    }


def test_options_of_a_version_of_a_branch(tmp_path, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", f"{tmp_path}/{{branch}}")
    write_files(tmp_path / "my/branch", _global_v1=GLOBAL, elife_v1=ELIFE)
    option = lookup.options("v1@my/branch")["elife"]
    assert option == "file://elife?filename=elife_v1.json&github_branch=my/branch"
    assert lookup.look_up(option, "000003").value == 1000.0


@pytest.mark.parametrize("version", ["", "v1@", "@b", "a b", "v1@a b", "../v1", "v1@..", None, 1])
def test_what_is_no_version(folder, version):
    with pytest.raises(InvalidOption, match="ONLINE"):
        lookup.options(version)


def test_unknown_version(folder):
    with pytest.raises(CorrectionNotFound, match="no version 'v9'.*_global_v9.json"):
        lookup.options("v9")


def test_gate_under_both_of_its_names(folder):
    write_files(folder, _global_v1=GLOBAL | {"drift_time_gate": 5000})
    assert lookup.options("v1")["drift_time_gate"] == 5000
    write_files(folder, _global_v1=GLOBAL | {"drift_time_gate": 3000})
    with pytest.raises(InvalidCorrection, match="_global_v1.json.*5000.*3000"):
        lookup.options("v1")


def test_look_up_by_file(folder):
    url = "file://elife?filename=elife_v1.json&github_branch=master"
    assert lookup.look_up(url, "000010").value == 1000.0
    found = lookup.look_up("file://elife?filename=elife_v1.json", "11")
    assert (found.value, found.range, found.file.name) == (2000.0, "000011-000020", "elife_v1.json")
    with pytest.raises(RunNotCovered) as info:
        lookup.look_up(url, "000021")
    for text in ("elife for run 000021", str(folder), "000001-000020"):
        assert text in str(info.value)


def test_every_error_names_option_run_and_file(folder):
    for content in ("{", {"1-2-3": 1}, {"000001-000005": 1, "000002": 2}, {}):
        write_files(folder, elife_v1=content)
        with pytest.raises(AmstraxError, match="option elife for run 000002: .*elife_v1.json"):
            lookup.look_up("cmt://elife?version=v1", "000002")


def test_look_up_by_version(folder):
    def value(option, version="v1"):
        return lookup.look_up(f"cmt://{option}?version={version}", "000002").value

    assert value("elife") == 1000.0
    assert value("s1_min_area") == 1
    assert value("drift_time_gate") == value("electron_drift_time_gate") == 5000
    # A file of its own, that the version does not name or that has no version
    write_files(folder, other_v1={"000002": 3}, elife_v8={"000002": 4})
    assert value("other") == 3 and value("elife", "v8") == 4
    # A version that names a file of another one
    write_files(folder, _global_v2={"elife": "elife_v1.json"})
    assert value("elife", "v2") == 1000.0
    # Which of two is meant cannot be told
    write_files(folder, elife_v2={"000002": 5})
    with pytest.raises(InvalidCorrection, match=r"elife_v2.json.*elife_v1.json.*_global_v2"):
        value("elife", "v2")
    with pytest.raises(CorrectionNotFound, match="nothing_v1.json"):
        value("nothing")


@pytest.mark.parametrize(
    "text",
    [
        "file://elife",
        "file://elife?filename=",
        "file://elife?github_branch=master",
        "file://a b?filename=elife_v1.json",
        "file://?github_branch=master&run_id=plugin.run_id",
        "file://elife?filename=elife_v1.json&filename=elife_v2.json",
        "file://elife?filename=elife_v1.json&branch=master",
        "cmt://elife",
        "cmt://elife?version=",
        "https://example.invalid/elife_v1.json",
        "://",
    ],
)
def test_strings_that_say_nothing(folder, text):
    assert lookup.is_lookup(text)
    with pytest.raises(InvalidOption, match="cmt://OPTION"):
        lookup.look_up(text, "000001")


@pytest.mark.parametrize("name", ["elife.json", "../../elife_v1.json", "elife_v1"])
def test_files_outside_are_not_read(folder, name):
    with pytest.raises(InvalidCorrection, match="NAME_VERSION.json"):
        lookup.look_up(f"file://elife?filename={name}", "000001")


def test_plain_values_are_not_looked_up():
    for value in ("corr", 3, None, (1, 2), {"a": "file://"}):
        assert not lookup.is_lookup(value)


def test_kinds_of_values():
    values = (True, 1, 2.5, "a", [1], (1,), {}, None, 1j)
    kinds = ["truth value", "number", "number", "text", "list", "list", "table", "nothing", "other"]
    assert [strict_json.kind(value) for value in values] == kinds


def test_file_that_cannot_be_read(folder, monkeypatch):
    path = folder / "elife" / "elife_v2.json"
    path.write_bytes(b'{"000001": "\xe9"}')
    with pytest.raises(InvalidCorrection, match=r"elife_v2.json cannot be read: byte 13"):
        store.find("elife_v2.json")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(AmstraxError, match=r"elife_v2.json"):
        store.find("elife_v2.json")
    path.unlink()
    # Root may read everything: refused where files are opened
    path.write_text("{}")

    def refuse(name, *args):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(strict_json, "open", refuse, raising=False)
    with pytest.raises(InvalidCorrection, match=r"elife_v2.json cannot be read.*Permission"):
        store.find("elife_v2.json")
