#!/usr/bin/env python
"""Simulate a run of XAMS, process it to events, plot them, and print next steps.

Usable as ``amstrax demo`` and, set-up included, as ``make demo``. When started again it keeps
existing parts and makes missing ones.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax import strict_json
from amstrax.auto_processing.amstraxer import to_dict_tuple
from amstrax.commands import base
from amstrax.commands.validate import process
from amstrax.exceptions import DataExists
from amstrax.rundb import documents, transfer
from amstrax.rundb.connection import COLLECTIONS, DATABASE
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import strax
    from matplotlib.figure import Figure

    from amstrax.simulation import SimulatedRun

log = logging.getLogger("amstrax.demo")

RUN_ID = "100100"
SOURCE, RATE, SEED = "am241", 20.0, 1
TARGETS = ("event_info", "event_waveform", "event_area_per_channel", "records")
#: File in the demo's folder that records what the demo has made, and whether it is complete
NOTE = "demo.json"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Simulate a run of XAMS with {SOURCE}, process it to events, plot them, and "
        "print next steps",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("amstrax_demo"),
        metavar="FOLDER",
        help="output folder (default: ./%(default)s)",
    )
    base.add_seconds(parser, "--duration", 60.0, "duration of the run")
    base.add(parser, "--yields", "--workers")
    parser.add_argument(
        "--force", action="store_true", help="make all parts again, and replace existing ones"
    )
    base.add_console(parser)
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args, log, lambda stop: demonstrate(args, stop), "the demo", args.output, "--output"
    )


def demonstrate(args: argparse.Namespace, stop: Stop) -> str:
    """Run all steps of the demo, and return the message for the user.

    Stopped by `stop`, it raises, and continues when started again. Raises DataExists if the output
    folder holds something else.
    """
    from amstrax import contexts
    from amstrax.rundb.embedded import LocalClient

    folder = args.output.absolute()
    asked_for = {"source": SOURCE, "rate": RATE, "seed": SEED, "duration": args.duration}
    if args.yields != "nest":
        asked_for["yields"] = args.yields
    is_complete = _is_complete(folder, asked_for, args.force)
    folder.mkdir(parents=True, exist_ok=True)
    note = {"run": asked_for, "complete": is_complete}
    strict_json.write_text(folder / NOTE, json.dumps(note))
    run = _simulated_run(args, folder / "live_data", stop)
    store = folder / "rundb.sqlite"
    # The demo's own run database, whatever the settings
    collection = LocalClient(store)[DATABASE][COLLECTIONS["xams"]]
    collection.drop()
    log.info("%s", transfer.add_live(collection, run.run_dir))
    processed = folder / "processed"
    process(
        run,
        processed,
        "xams",
        TARGETS,
        run.options(),
        stop,
        from_scratch=not is_complete and processed.exists(),
        workers=args.workers,
        progress=args.progress,
        run_document=documents.find_run(collection, run.run_id),
    )
    st = contexts.xams(
        output_folder=processed, init_rundb=False, config=to_dict_tuple(run.options())
    )
    plots = folder / "plots"
    for name, figure in draw_plots(st, run.run_id):
        stop.check()
        base.save_figure(figure, plots / f"{name}.png", dpi=110)
    strict_json.write_text(folder / NOTE, json.dumps(note | {"complete": True}))
    documents.set_status(collection, run.run_id, "done")
    steps = next_steps(run, processed, plots, store)
    return "\n".join([table(st, run.run_id, processed), "", steps])


def _is_complete(folder: Path, asked_for: dict, force: bool) -> bool:
    """Return whether the demo is complete; raise DataExists if the folder has other content."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        note = strict_json.load_object(folder / NOTE, DataExists)
        was_asked_for, is_complete = note["run"], note["complete"]
    except (DataExists, LookupError):
        raise DataExists(
            f"{folder} has other content than this demo: name another folder with --output"
        ) from None
    if force:
        return False
    if was_asked_for != asked_for:
        raise DataExists(
            f"{folder} holds a demo with {was_asked_for}, not {asked_for}: name another folder "
            "with --output, or replace it with --force"
        )
    return is_complete


def _simulated_run(args: argparse.Namespace, folder: Path, stop: Stop) -> "SimulatedRun":
    """Return the run; simulate it if it does not exist."""
    from amstrax.simulation import SimulatedRun, simulate

    run_dir = folder / RUN_ID
    # The simulation writes the run document last
    if (folder / f"rundoc_{RUN_ID}.json").exists() and not args.force:
        log.info("run %s exists already: %s", RUN_ID, run_dir)
        return SimulatedRun.at(run_dir)
    simulate(
        RUN_ID,
        folder,
        source=SOURCE,
        rate=RATE,
        duration=args.duration,
        seed=SEED,
        yields=args.yields,
        # A stopped demo leaves a folder without a run document
        force=True,
        show_progress=base.shows_progress(args.progress),
        stop=stop.event.is_set,
    )
    return SimulatedRun.at(run_dir)


def draw_plots(st: Any, run_id: str) -> Iterator[tuple[str, "Figure"]]:
    """Yield name and figure of each plot of a run whose `TARGETS` are stored."""
    import numpy as np

    from amstrax.simulation import DETECTORS

    detector, quiet = DETECTORS["xams"], {"progress_bar": False}
    yield "s1_s2", st.event_scatter(run_id, **quiet)
    gate, cathode = detector.drift_time_gate, detector.drift_time_cathode
    yield "drift_time", st.plot_drift_time(run_id, gate=gate, cathode=cathode, **quiet)
    radius, depth = detector.radius, detector.gate_cathode_distance
    yield "positions", st.plot_positions(run_id, radius=radius, depth=depth, **quiet)
    events = st.get_array(run_id, "event_info", **quiet)
    events = events[np.isfinite(events["drift_time"])]
    if not len(events):
        log.warning("no event has S1 and S2: no event display is made")
        return
    # A typical event: the median by S2
    event = events[np.argsort(events["s2_area"])[len(events) // 2]]
    number = int(event["event_number"])
    yield "event_display", st.event_display(run_id, event_number=number, **quiet)
    s1 = int(event["s1_time"]), int(event["s1_endtime"])
    yield "waveforms", st.plot_peak_records(run_id, time_range=s1, **quiet)


def table(st: "strax.Context", run_id: str, folder: Path) -> str:
    """Return a table of the data of a run that is stored in a folder, with sizes on disk."""
    lines = [f"{'Data type':24s} {'rows':>9s} {'MB':>8s}  in {folder}"]
    for data_type in st._plugin_class_registry:
        name = str(st.key_for(run_id, data_type))
        if (folder / name).is_dir():
            rows = sum(chunk["n"] for chunk in st.get_metadata(run_id, data_type)["chunks"])
            size = sum(path.stat().st_size for path in (folder / name).iterdir())
            lines.append(f"{data_type:24s} {rows:9d} {size / 1e6:8.2f}  {name}")
    return "\n".join(lines)


def next_steps(run: "SimulatedRun", processed: Path, plots: Path, store: Path) -> str:
    """Return the paths of the plots, and the next commands."""
    command = Path(sys.executable).parent / "amstrax"
    options = run.run_dir.parent / f"config_{run.run_id}.json"
    pictures = "\n".join(f"    {path}" for path in sorted(plots.glob("*.png")))
    return f"""Plots:
{pictures}

Events in Python ({Path(sys.executable)}), and a plot of your own:

    import amstrax

    options = amstrax.simulation.load_options({str(options)!r})
    st = amstrax.contexts.xams(
        output_folder={str(processed)!r}, init_rundb=False, config=options
    )
    events = st.get_df({run.run_id!r}, "event_info")
    print(events[["s1_area", "s2_area", "drift_time", "x", "y", "z"]].describe())
    events.plot.scatter("drift_time", "s2_area").figure.savefig("mine.png")

How well the true events were reconstructed:

    {command} validate --live_data {run.run_dir}

The run in the demo's run database (while no other one is set):

    AMSTRAX_RUNDB_PATH={store} {command} rundb show {run.run_id}

All of it in a browser, at http://127.0.0.1:5006/run?id={run.run_id}, as long as this command runs:

    AMSTRAX_RUNDB_PATH={store} {command} dashboard --output_folder {processed} \\
        --live_data_dir {run.run_dir.parent}
"""


if __name__ == "__main__":
    sys.exit(main())
