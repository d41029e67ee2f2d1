"""Imports between the modules of amstrax, and the figure of them on the page "Architecture"."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

#: Room of the figure -> what it holds. Each module belongs to the longest name that it begins with;
#: a module may import only from its own room and from rooms above it in this table.
ROOMS = {
    "base": "Settings, errors, run documents, live data on disk: everything else uses these",
    "processing": "Algorithms and kernels: arrays in, arrays out",
    "calibration": "From source runs to corrections: arrays in, results out",
    "simulation": "Detector model: live data with the truth",
    "strax_ext.storage": "Folders of data, and savers that verify what they write",
    "rundb": "Run database: documents, leases, connection, RunDB as strax sees it",
    "run_values": "Values of a run document for options",
    "strax_ext": "What amstrax adds to strax: context, plugin base, processor",
    "rundb.diagnose": "What amstrax rundb check tries",
    "corrections": "Values for ranges of runs, and their sources",
    "plugins": "strax plugins: options, dtypes, compute",
    "contexts": "xams, xams_led, xams_little",
    "analyses": "Plots and figures of merit",
    "SiPMdata": "Positions from light in SiPMs",
    "auto_processing.engines": "Batch systems",
    "commands.base": "Options, logging, signals, exit status and tables of all commands",
    "auto_processing": "Tools for jobs, copying, deleting and the automatic loop",
    "auto_processing_new": "Entries for the lab's dashboard of 2026",
    "dashboard": "Web page",
    "commands": "The other subcommands, a file each",
    "cli": "The command amstrax",
}


def modules(package: Path) -> dict[str, Path]:
    """Return the files of all modules below the folder of amstrax, by full name."""
    found = {}
    for path in package.rglob("*.py"):
        parts = ["amstrax", *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Iterable[str]) -> set[str]:
    """Return the known modules that a file imports, also in functions, but not for types alone."""
    known, found = set(known), set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return found & known


def room_of(module: str) -> str:
    """Return the room of a module; `base` for modules of the top level without one."""
    name = module.removeprefix("amstrax.")
    fitting = [room for room in ROOMS if f"{name}.".startswith(f"{room}.")]
    return max(fitting, key=len, default="base")


def graph(package: Path) -> dict[str, set[str]]:
    """Return the modules that each module imports, without the package itself."""
    files = modules(package)
    known = set(files) - {"amstrax"}
    return {name: imports(files[name], known) for name in sorted(known)}


def rooms(graph: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return the rooms above each room that it imports from."""
    order = list(ROOMS)
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, imported in graph.items():
        above = order[: order.index(room_of(name))]
        found[room_of(name)] |= {room_of(other) for other in imported} & set(above)
    return found


def direct(rooms: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return rooms without those that they also reach by way of another (transitive reduction)."""

    def reached(room: str) -> set[str]:
        return set().union(*({other} | reached(other) for other in rooms[room]))

    return {
        room: others - set().union(*(reached(other) for other in others))
        for room, others in rooms.items()
    }


def write(folder: Path, package: Path) -> None:
    """Write the figure into ``architecture.inc`` of a folder."""
    import dependency_graph  # needs a package of the documentation, which tests of imports do not

    nodes = [
        dependency_graph.Node(room, ROOMS[room], tuple(sorted(others)), "")
        for room, others in direct(rooms(graph(package))).items()
    ]
    figure = dependency_graph.html(nodes, "Which parts of amstrax import which")
    indented = "\n".join(f"   {line}" for line in figure.splitlines())
    (folder / "architecture.inc").write_text(f".. raw:: html\n\n{indented}\n", encoding="utf-8")
