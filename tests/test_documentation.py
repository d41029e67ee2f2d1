"""Every command of README.md and the pages in docs/ runs, and the pages tell of all there is.

That the pages can be built, notebooks run, and links lead somewhere, is tested by `make docs`.
"""

import configparser
import csv
import importlib.util
import itertools
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from make_jobs import made_once, wait
from needs import need, need_all

import amstrax
from amstrax import contexts, settings
from amstrax.auto_processing import amstraxer
from amstrax.rundb import documents

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "docs/source"
PAGES = [ROOT / "README.md", *sorted(SOURCE.glob("*.rst"))]
PAGES = [page for page in PAGES if not page.name.startswith("data_structure_")]
NOTEBOOKS = sorted((SOURCE / "tutorials").glob("*.ipynb"))
RUN = {"sh": "sh", "bash": "sh", "python": "python"}
NOT_RUN = ("text", "ini")
#: Pages that someone new follows in one folder, in the order of index.rst
FIRST_PAGES = (
    *("setting_up", "first_tour", "own_plugin", "export"),
    *("runs", "options", "waveforms", "analyses", "simulation"),
)


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    line: int
    code: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code in a Markdown or reStructuredText file."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return list(_markdown(lines) if page.suffix == ".md" else _restructured_text(lines))


def _markdown(lines):
    fence = None
    for i, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if fence is None:
            fence = i
        else:
            yield Block(lines[fence].strip("` "), fence + 2, "\n".join(lines[fence + 1 : i]))
            fence = None
    assert fence is None, f"line {fence}: ``` without an end"


def _restructured_text(lines):
    for i, line in enumerate(lines):
        match = re.fullmatch(r"( *)\.\. code-block:: (\w+)", line)
        if not match:
            continue
        indented = re.compile(rf"$|{match[1]} ")
        body = itertools.takewhile(indented.match, lines[i + 1 :])
        yield Block(match[2], i + 2, textwrap.dedent("\n".join(body)))


def sessions(page: Path) -> list[list[Block]]:
    """Return the blocks that are run, those of Python that follow each other in one list."""
    result: list[list[Block]] = []
    for block in blocks(page):
        if block.language not in RUN:
            continue
        if block.language == "python" and result and result[-1][-1].language == "python":
            result[-1].append(block)
        else:
            result.append([block])
    return result


# Tests do not start themselves, nor an installation, nor JupyterLab: see whether there is such a
# target, but let `make demo` (of 10 s, not 60) and `make process` work, on what is installed here.
_MAKE = """#!/usr/bin/env bash
set -eu
unset MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES
venv=${{SERVED_VENV:-{venv}}}
make=({make} --no-print-directory -C {root} "VENV=$venv" -o "$venv/.installed" -o "$venv/.dev")
case " $* " in
    *" demo "*) exec "${{make[@]}}" ARGS="--output '$PWD/amstrax_demo' --duration 10" "$@" ;;
    *" process "*) exec "${{make[@]}}" LIVE="$PWD/simulated" OUT="$PWD/amstrax_data" "$@" ;;
    *) exec "${{make[@]}}" --dry-run "$@" ;;
esac
"""


# Pages simulate the same runs, each in one way: see test_a_run_number_stands_for_one_run
_AMSTRAX = """#!/usr/bin/env bash
set -eu
real={real} made={made}
case " $* " in
    *" --realtime "*) exec "$real" "$@" ;;
    " simulate "[0-9][0-9][0-9][0-9][0-9][0-9]" "*) ;;
    *) exec "$real" "$@" ;;
esac
output=simulated
words=()
while [ $# -gt 0 ]; do
    if [ "$1" = --output ]; then
        output=$2
        shift
    else
        words+=("$1")
    fi
    shift
done
runs=$made/$(printf '%q ' "${{words[@]}}" | sha1sum | cut -c 1-40)
exec 9> "$runs.lock"
flock 9
if ! [ -e "$runs.done" ]; then
    "$real" "${{words[@]}}" --output "$runs" 9>&-
    touch "$runs.done"
fi
mkdir -p "$output"
cp -r "$runs/." "$output"
sed -i "s#$runs#$(realpath "$output")#g" "$output"/rundoc_*.json
"""


def run_page(page: Path, folder: Path, environment: dict[str, str]) -> None:
    """Run what a page has to run, in order, in a folder."""
    for session in sessions(page):
        command = ["bash", "-euo", "pipefail", "-c", session[0].code]
        if session[0].language == "python":
            script = folder.parent / f"{page.stem}.py"
            script.write_text(as_script(session), encoding="utf-8")
            command = [folder / ".venv/bin/python", script]
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        place = f"{page.relative_to(ROOT)}, line {session[0].line}"
        assert done.returncode == 0, f"{place}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def as_script(session: list[Block]) -> str:
    """Return the code of blocks, each on the lines that it has on its page."""
    lines: list[str] = []
    for block in session:
        lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(lines)


def tool(folder: Path, name: str, text: str) -> None:
    """Write an executable file."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Environment in which commands run: a `make` that starts neither tests nor an installation."""
    need_all("make")
    make = shutil.which("make")
    tool(tmp_path / "bin", "make", _MAKE.format(make=make, root=ROOT, venv=sys.prefix))
    return {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def clone(tmp_path, tmp_path_factory, request, served_scripts) -> Path:
    """A folder that looks like this repository, where commands may leave what they like.

    Its commands fork from one process (see fork_server.py), but for those of `make` on
    the first pages. It has the run of the demo if the page uses that without making it.
    What one page has simulated, the next ones copy.
    """
    venv = Path(sys.prefix)
    need((venv / "bin/amstraxer").exists(), f"needs amstrax installed in {venv}")
    folder = tmp_path / "clone"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", "strax_data", "amstrax_data", "build", "dist"):
            (folder / path.name).symlink_to(path)
    scripts = folder / ".venv/bin"
    scripts.mkdir(parents=True)
    for path in served_scripts.iterdir():
        (scripts / path.name).symlink_to(path)
    if shutil.which("flock"):
        made = made_once(tmp_path_factory, "simulated_for_pages", lambda folder: None)
        (scripts / "amstrax").unlink()
        text = _AMSTRAX.format(real=served_scripts / "amstrax", made=made)
        tool(scripts, "amstrax", text)
    page = request.node.callspec.params["page"] if hasattr(request.node, "callspec") else None
    run = commands(page) if page else ""
    if "amstrax_demo/" in run and not re.search(r"(make|amstrax) demo", run):
        shutil.copytree(request.getfixturevalue("demo_run"), folder / "amstrax_demo")
    return folder


def commands(page: Path) -> str:
    """Return all that is run of a page as text."""
    return "\n".join(block.code for session in sessions(page) for block in session)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_commands_of_the_first_pages_in_one_folder(clone, environment):
    """README and the pages that follow, as someone new types them."""
    for page in (ROOT / "README.md", *(SOURCE / f"{name}.rst" for name in FIRST_PAGES)):
        run_page(page, clone, environment)
    check_areas_of_the_job(clone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if sessions(page) and page.stem not in ("README", "release", *FIRST_PAGES)
    ],
    ids=lambda page: page.name,
)
def test_commands(page, clone, environment):
    run_page(page, clone, environment | {"SERVED_VENV": str(clone / ".venv")})


def test_first_pages_are_in_the_order_of_the_index():
    index = (SOURCE / "index.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", index, re.M)
    pages = {page.stem: page for page in PAGES}  # without those that the build makes
    with_commands = [name for name in listed if name in pages and sessions(pages[name])]
    assert tuple(with_commands[: len(FIRST_PAGES)]) == FIRST_PAGES


@pytest.mark.parametrize("name", FIRST_PAGES)
def test_first_pages_simulate_the_runs_that_they_use(name):
    """Or use that of the demo, so that each page can be followed alone."""
    run = commands(SOURCE / f"{name}.rst")
    simulated = re.findall(r"simulate(?:\(\"| )(\d{6})", run)
    used = set(re.findall(r"(?<!\d)(?:2000|2100)\d\d(?!\d)", run))
    assert used <= set(simulated)


def check_areas_of_the_job(clone):
    """Check that the job used the gains of its simulated run: areas are in PE."""
    runs = amstrax.get_mongo_collection("xams")

    def is_done():
        return documents.status_of(documents.find_run(runs, "200001")).status == "done"

    wait(is_done)
    st = contexts.xams(output_folder=clone / "processed")
    area = st.get_array("200001", "event_info", progress_bar=False)["s1_area"]
    # In ADC counts x samples it would be a hundred times as large
    assert 500 < np.median(area) < 2000


def texts():
    """Yield path and text of each page and notebook."""
    for path in [*PAGES, *NOTEBOOKS]:
        yield path, path.read_text(encoding="utf-8")


def test_pages_do_not_need_data_that_is_not_here():
    for path, text in texts():
        if path.stem != "xamsl_data_access":
            assert not re.search(r"\.\./shared/(data|parity)", text), path.name


def test_a_run_number_stands_for_one_run():
    """Each is in the table of writing_documentation.rst, and simulated in one way."""
    page = (SOURCE / "writing_documentation.rst").read_text(encoding="utf-8")
    table = page.split("Run numbers\n-----------\n")[1].split("\n\nMutated input")[0]
    known = set(re.findall(r"^   \* - ``(\d{6})``$", table, re.M))
    ways: dict[str, set[str]] = {}
    for path, text in texts():
        used = set(re.findall(r"(?<!\d)(?:1001|2000|9999)\d\d(?!\d)", text))
        assert used <= known, f"{path.name}: add {used - known} to the table of run numbers"
        for number, options in re.findall(r"amstrax simulate (\d{6}) (.*)", text):
            options = re.sub(r" ?--output \S+| ?--realtime \d+ &", "", options)
            ways.setdefault(number, set()).add(options)
    assert {"200001", "200002"} <= ways.keys()
    assert {number: its for number, its in ways.items() if len(its) > 1} == {}


# What bump-my-version does with .bumpversion.cfg, of which it needs a network to be had
_PIPX = """#!{python}
import configparser, subprocess, sys
assert sys.argv[1:4] == ["run", "bump-my-version", "bump"] and len(sys.argv) == 5, sys.argv
config = configparser.ConfigParser(interpolation=None)
config.read(".bumpversion.cfg")
main = config["bumpversion"]
names = {{"current_version": main["current_version"]}}
number = [int(n) for n in main["current_version"].split(".")]
part = ["major", "minor", "patch"].index(sys.argv[4])
number[part:] = [number[part] + 1] + [0] * (2 - part)
names["new_version"] = ".".join(map(str, number))
places = {{s.split(":")[-1]: config[s] for s in config if ":file:" in s}}
places[".bumpversion.cfg"] = dict(
    search="current_version = {{current_version}}", replace="current_version = {{new_version}}"
)
for path, place in places.items():
    text = open(path).read()
    search, replace = (place[key].format(**names) for key in ("search", "replace"))
    assert text.count(search) == 1, (path, search)
    with open(path, "w") as file:
        file.write(text.replace(search, replace))
for command in (
    ["commit", "-qam", main["message"].format(**names)],
    ["tag", "-a", main["tag_name"].format(**names), "-m", "release"],
):
    subprocess.run(["git", *command], check=True)
"""


def test_commands_of_a_release(tmp_path, environment):
    """In a small repository with those files that a release changes, and one to push to."""
    need_all("git")
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / ".bumpversion.cfg", encoding="utf-8")
    changed = [section.split(":")[-1] for section in config if ":file:" in section]
    work = tmp_path / "work"
    for name in (".bumpversion.cfg", "HISTORY.md", *changed):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, work / name)
    tool(tmp_path / "bin", "pipx", _PIPX.format(python=sys.executable))
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= {f"GIT_{who}_NAME": "somebody" for who in ("AUTHOR", "COMMITTER")}
    environment |= {f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")}

    def git(*arguments):
        # Started from a git hook, git would take the hook's repository
        outside = {
            k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_INDEX_FILE")
        } | environment
        return subprocess.run(
            ["git", "-C", str(work), *arguments],
            env=outside,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    git("init", "--quiet", "--initial-branch=master")
    git("add", "--all")
    git("commit", "--quiet", "--message=before")
    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("push", "--quiet", "--set-upstream", "origin", "master")
    history = work / "HISTORY.md"
    history.write_text(history.read_text(encoding="utf-8") + "\nMore.\n", encoding="utf-8")

    run_page(SOURCE / "release.rst", work, environment)

    major, minor, patch = (int(n) for n in amstrax.__version__.split("."))
    new = f"{major}.{minor}.{patch + 1}"
    for name in changed:
        assert new in (work / name).read_text(encoding="utf-8"), name
    assert git("ls-remote", "--tags", "origin", f"v{new}")
    assert not git("status", "--porcelain")
    assert git("rev-parse", "HEAD") == git("rev-parse", "origin/master")


def test_blocks_that_are_not_run_hold_no_commands():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in (*RUN, *NOT_RUN), f"{page.name}, line {block.line}"
            if block.language in NOT_RUN:
                found = re.search(
                    r"^\W*(make|git|pip|pipx|bash|python|amstrax\w*|\.venv/\S+) ", block.code, re.M
                )
                assert not found, f"{page.name}, line {block.line}: {found[0]}"


def test_readme_fits_on_a_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_code_is_in_blocks_that_are_found():
    """No other kind of block could hide a command."""
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        if page.suffix == ".rst":
            marked = [x for x in lines if "code-block" in x or re.fullmatch(r"(?! *\.\.).*::", x)]
            assert len(marked) == len(blocks(page)), f"{page.name}: {marked}"
        else:
            # Neither indented fences, nor other ones, nor indented text after an empty line
            text = re.sub(r"^```.*?^```", "", "\n".join(lines), flags=re.M | re.S)
            assert not re.search(r"```|^~~~|\n\n    \S", text), page.name


def code_words(page: Path) -> list[str]:
    """Return what is marked as code within the lines of a page."""
    text = page.read_text(encoding="utf-8")
    mark = "`" if page.suffix == ".md" else "``"
    if page.suffix == ".md":
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(rf"(?<!`){mark}([^`]+){mark}(?!`)", text)


def test_make_targets_that_are_named_exist():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert "docs" in targets
    for page in PAGES:
        for word in code_words(page):
            if match := re.match(r"make ([a-z-]+)", word):
                assert match[1] in targets, f"{page.name}: {word}"


def test_commands_named_within_lines_exist(capsys):
    """Such as `.venv/bin/amstraxer --help`."""
    from amstrax import cli

    tools = {"amstrax": cli.main, "amstraxer": amstraxer.main}
    for page in PAGES:
        for word in code_words(page):
            if match := re.fullmatch(r"\.venv/bin/(\w+) (--\w+)", word):
                try:
                    status = tools[match[1]]([match[2]])
                except SystemExit as stop:
                    status = stop.code
                assert status == 0, f"{page.name}: {word}"
    capsys.readouterr()


def test_tests_that_the_makefile_names_exist():
    names = re.findall(r"tests/[\w/]+(?:\.py)?", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "tests/test_fuzz.py" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_files_that_are_named_exist():
    ours = tuple(
        f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name != ".venv"
    )
    built = ("docs/build/", "docs/source/tutorials/amstrax_demo", "amstrax_data/", "strax_data/")
    for page in PAGES:
        names = [word.split()[-1] for word in code_words(page)]
        if page.suffix == ".md":
            text = page.read_text(encoding="utf-8")
            links = re.findall(r"\]\(([^)]+)\)", text)
            pictures = [str(path.relative_to(ROOT)) for path in SOURCE.glob("_static/*.png")]
            for link in links:
                assert link.startswith("https://") or "/" not in link or link in pictures, link
            names += [link for link in links if not link.startswith("https://")]
        for name in names:
            is_path = re.fullmatch(r"[\w./-]+", name) and (
                name.startswith(ours) or re.search(r"^[\w-]+\.(md|py|txt|toml|cfg)$", name)
            )
            if is_path and not name.startswith(built):
                # Within docs/source the pages name each other
                places = (ROOT / name, page.parent / name)
                assert any(place.exists() for place in places), f"{page.name}: {name}"


def test_processing_page_has_all_options_of_amstraxer(capsys):
    with pytest.raises(SystemExit):
        amstraxer.parse_args(["--help"])
    options = set(re.findall(r"--[a-z_-]+", capsys.readouterr().out)) - {"--help"}
    page = (SOURCE / "processing.rst").read_text(encoding="utf-8")
    described = set(re.findall(r"^ +\* - .*", page, re.M))
    described = {option for row in described for option in re.findall(r"--[a-z_-]+", row)}
    assert described == options
    page = re.sub(r"amstrax simulate .*", "", page)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", page)) - {"--help"} <= options


def test_reference_has_all_public_modules():
    text = (SOURCE / "reference.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (amstrax\.[\w.]+)$", text, re.M)
    found = [
        module.name
        for module in pkgutil.walk_packages(amstrax.__path__, "amstrax.")
        if not module.ispkg and not module.name.rpartition(".")[2].startswith("_")
    ]
    assert sorted(listed) == sorted(found), "docs/source/reference.rst names each module once"


@pytest.fixture(scope="module")
def builder():
    """The module that writes the pages of data types."""
    with pytest.MonkeyPatch.context() as patch:
        # It imports what lies beside it
        patch.syspath_prepend(str(SOURCE))
        yield load_module("build_data_structure_doc")


def load_module(name, needed=("grandalf", "sphinx")):
    """Return a module of docs/source, which is no package; skip the test without what it needs."""
    for package in needed:
        pytest.importorskip(package, reason=f"needs {package}, of the extra `docs`")
    spec = importlib.util.spec_from_file_location(name, SOURCE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [*settings.CONTEXT_DETECTORS, "xams_improved"])
def test_page_of_a_context_has_all_types_columns_and_options(name, builder):
    page = builder.page(name)
    context = name.removesuffix("_improved")
    kwargs = {"reconstruction": "improved"} if name.endswith("_improved") else {}
    st = getattr(contexts, context)(
        init_rundb=False, storage=[], config={"readout_threads": {}}, **kwargs
    )
    # Text before the first section, then name and text of each
    _, *parts = re.split(r"^\.\. _[\w-]+:\n\n(\w+)\n-+\n", page, flags=re.M)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(sections) == list(st._plugin_class_registry)
    for data_type, plugin in st._plugin_class_registry.items():
        text = sections[data_type]
        assert text.strip().startswith(plugin.__doc__.split("\n")[0][:20])
        assert f":Lineage hash: ``{st.key_for('0', data_type).lineage_hash}``" in text
        for option in plugin.takes_config.values():
            row = rf"\* - ``{option.name}``\n     - .*\n     - {'yes' if option.track else 'no'}\n"
            assert re.search(row, text), f"{data_type}: {option.name}"
        if plugin.depends_on:
            for field in st.get_single_plugin("0", data_type).dtype_for(data_type).names:
                assert f"* - ``{field}``\n" in text, f"{data_type}: {field}"
    # Every cell says something: all have a title, or a help text
    assert not re.search(r"^   [* ] -$", page, re.M)


def test_every_context_has_a_page(builder, tmp_path):
    pages = builder.write(tmp_path)
    assert [page.stem for page in pages] == [
        f"data_structure_{name}" for name in (*settings.CONTEXT_DETECTORS, "xams_improved")
    ]
    index = (SOURCE / "index.rst").read_text(encoding="utf-8")
    for page in pages:
        assert f"   {page.stem}\n" in index


def test_pages_do_not_depend_on_settings_of_the_machine(builder, monkeypatch, tmp_path):
    before = builder.page("xams")
    monkeypatch.setenv("XAMS_LIVE_DATA", str(tmp_path))
    monkeypatch.setenv("XAMS_PROCESSED_DATA", str(tmp_path))
    assert builder.page("xams") == before


def test_dependency_graph_has_every_type_and_arrow(builder):
    page = builder.page("xams")
    st = contexts.xams(init_rundb=False, storage=[])
    plugins = st._plugin_class_registry
    (picture,) = re.findall(r"<svg .*?</svg>", page, re.S)
    tree = ElementTree.fromstring(re.sub(r"^ +", "", picture, flags=re.M))
    space = {"svg": "http://www.w3.org/2000/svg"}
    links = [link.get("href") for link in tree.iterfind(".//svg:a", space)]
    assert len(links) == len(set(links)) == len(plugins) + 1
    for name in plugins:
        link = f"xams-{name}".replace("_", "-")
        assert f"#{link}" in links
        assert f".. _{link}:\n" in page
    # An arrow from each that a type is made of, or from live data
    arrows = tree.findall(".//svg:path[@class='line']", space)
    needs = [
        p().depends_on if isinstance(p.depends_on, property) else p.depends_on
        for p in plugins.values()
    ]
    assert len(arrows) == sum(len(its) or 1 for its in needs)
    # No box lies on another one
    boxes = [
        [float(box.get(key)) for key in ("x", "y", "width", "height")]
        for box in tree.iterfind(".//svg:rect", space)
    ]
    for (x, y, width, height), (x2, y2, width2, height2) in itertools.combinations(boxes, 2):
        apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
        assert apart, (x, y, x2, y2)


def test_names_in_boxes_are_broken_after_underscores():
    lines = load_module("dependency_graph")._lines
    assert lines("peaks") == ["peaks"]
    assert lines("live data") == ["live data"]
    assert lines("event_area_per_channel") == ["event_area_", "per_channel"]
    assert lines("an_unbreakablelongword") == ["an_", "unbreakablelongword"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_output_and_is_on_the_pages(path):
    """Notebooks are executed by `make docs`."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }, f"{path.name}: clear all outputs, and choose the kernel Python 3"
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), f"{path.name}: clear all outputs"
        assert cell.get("execution_count") is None, f"{path.name}: clear all outputs"
    assert "/work/" not in text
    assert "/home/" not in text
    assert f"   tutorials/{path.stem}\n" in (SOURCE / "index.rst").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["shared", "simulated"])
def test_notebook_of_xamsl_with_and_without_the_real_run(source, tmp_path, request):
    need_all("docs")
    import nbclient
    import nbformat

    if source == "shared":
        (tmp_path / "shared").symlink_to(request.getfixturevalue("shared"))
    folder = tmp_path / "clone/docs/source/tutorials"
    folder.mkdir(parents=True)
    notebook = nbformat.read(SOURCE / "tutorials/xamsl_data_access.ipynb", as_version=4)
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    [said] = [
        line
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for line in output.get("text", "").splitlines()
        if line.endswith(" peaks")
    ]
    numbers = [int(number) for number in re.findall(r"\d+", said)]
    if source == "shared":
        # Rows of the reference
        assert numbers[0] == 68_340 and numbers[2] == 8_906
    assert min(numbers) > 100


def test_notebooks_of_the_lab_are_there():
    assert {path.stem for path in NOTEBOOKS} >= {
        "first_tour",
        "xamsl_data_access",
        "event_displays",
        "validation",
        "led_gains",
        "calibrating_a_detector",
    }


def test_log_lines_of_the_loop_are_as_they_are_logged():
    """Of each line in the table, what does not differ stands in the code."""
    page = (SOURCE / "processing_on_the_cluster.rst").read_text(encoding="utf-8")
    table = page.split("What its log says")[1].split(".. _as_a_service:")[0]
    code = "".join(
        (ROOT / "amstrax" / f"{name}.py").read_text(encoding="utf-8")
        for name in (
            *("auto_processing/auto_processing", "auto_processing/loop", "commands/base"),
            *("auto_processing/submitting", "auto_processing/engines/local", "rundb/leases"),
            "auto_processing/grouping",
        )
    )
    # Texts that go on in the next line
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    rows = re.findall(r"^   \* - ``(.+)``$", table, re.M)
    assert len(rows) > 10
    for row in rows:
        for piece in re.split(r"\.\.\.|[(),]", row):
            words = piece.strip(" :;,.")
            assert len(words) < 4 or words in code, f"{row}: {words!r}"


@pytest.fixture(scope="module")
def check_html():
    """The module that looks for links that lead nowhere."""
    return load_module("../check_html", needed=())


def test_links_that_lead_somewhere_are_fine(check_html, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<html><a href="sub/other.html#there">x</a><a href="#here">x</a><p id="here">'
        '<a href="https://example.org/a#b">x</a><a href="mailto:a@example.org">x</a>'
        '<a href="sub/">x</a><img src="data:image/png;base64,AA"><img src="sub/a%20b.png">'
        '<link rel="canonical" href="https://example.org/"></html>'
    )
    (tmp_path / "sub/other.html").write_text('<p id="there"><a href="../index.html">x</a>')
    (tmp_path / "sub/index.html").write_text("<p>")
    (tmp_path / "sub/a b.png").write_bytes(b"")
    assert check_html.main([str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<a href="gone.html">x</a>', "gone.html is not there"),
        ('<a href="#gone">x</a>', "#gone: no such place"),
        ('<a href="index.html#gone">x</a>', "index.html#gone: no such place"),
        ('<img src="gone.png">', "gone.png is not there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads https://cdn.example.org"),
        ('<script src="//cdn.example.org/x.js"></script>', "loads //cdn.example.org"),
        ('<link rel="stylesheet" href="https://example.org/a.css">', "loads https://example.org"),
    ],
)
def test_links_that_lead_nowhere_are_found(text, message, check_html, tmp_path, capsys):
    (tmp_path / "index.html").write_text(f"<html>{text}</html>")
    assert check_html.main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_folder_without_pages_is_an_error(check_html, tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no pages"):
        check_html.main([str(tmp_path)])


def test_table_of_lab_and_improved(tmp_path):
    table = load_module("make_reconstruction_table", needed=())
    table.write(tmp_path, (table.Run("flat", 100, 15),))
    text = (tmp_path / "reconstruction_table.inc").read_text()
    rows = list(csv.reader(text[len(table.HEADER) :].splitlines(), skipinitialspace=True))
    assert {"Position error, outer ring", "S1 area bias"} <= {row[1] for row in rows}
    assert {len(row) for row in rows} == {5} and {row[0] for row in rows} == {"flat, 100 Hz"}
    committed = (SOURCE / "reconstruction_table.inc").read_text()
    runs = {f'"{run.source}, {run.rate:g} Hz"' for run in table.RUNS}
    assert all(run in committed for run in runs)


def test_table_of_types():
    table = load_module("make_reconstruction_table", needed=())
    (row,) = csv.reader([table.type_rows(table.Run("flat", 100, 15))], skipinitialspace=True)
    lab, *_, improved = (float(cell.split()[0]) for cell in row[1:4])
    assert row[0].strip() == "flat, 100 Hz" and improved < lab / 3
    committed = (SOURCE / "classification_table.inc").read_text()
    assert all(f'"{run.title}"' in committed for run in table.TYPE_RUNS)


def test_table_of_saturation():
    table = load_module("make_reconstruction_table", needed=())
    rows = table.saturation_rows(table.Run("cs137", 50, 60))
    assert rows.startswith('   "S1, all", "')
    committed = (SOURCE / "saturation_table.inc").read_text()
    assert all(f'"{sx}, {flag}"' in committed for sx in ("S1", "S2") for flag in ("all", "flag 1"))


@pytest.mark.parametrize(
    "lab, improved, best, verdict",
    [
        ((0.9, 0.01), (0.95, 0.01), 1, "better"),
        ((0.9, 0.01), (0.92, 0.01), 1, "the same"),
        ((0.95, 0.01), (0.9, 0.01), 1, "worse"),
        ((-0.1, 0.001), (0.02, 0.001), 0, "better"),
        ((np.nan, np.nan), (0.02, 0.001), 0, "better"),
        ((0.0, np.nan), (np.nan, np.nan), 0, "worse"),
    ],
)
def test_verdicts(lab, improved, best, verdict):
    table = load_module("make_reconstruction_table", needed=())
    pair = [dict(zip(("value", "error"), each, strict=True)) for each in (lab, improved)]
    assert table.verdict(*pair, best) == verdict
