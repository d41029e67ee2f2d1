"""Simulated runs on disk: live data, run document, truth, and options to process them."""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from immutabledict import immutabledict
from tqdm import tqdm

import amstrax
from amstrax import redax, rundoc, strict_json
from amstrax.exceptions import DataExists, InvalidOption, LiveDataNotFound, Stopped
from amstrax.simulation.blocks import Block, Settings, blocks
from amstrax.simulation.detector import DETECTORS, Detector, find
from amstrax.simulation.parts import PartsFile
from amstrax.simulation.writer import Pace, RunWriter, TruthFile

log = logging.getLogger(__name__)

#: Default start of simulated runs, since the same seed should give the same files
START = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"
_RUN_ID = re.compile(r"[0-9]{1,9}")


def simulate(
    run_id: str,
    output_folder: str | Path = "./simulated",
    detector: str | Detector = "xams",
    source: str = "kr83m",
    rate: float = 5.0,
    duration: float = 60.0,
    seed: int = 0,
    *,
    energy_range: tuple[float, float] | None = None,
    source_position: tuple[float, float, float] | None = None,
    backgrounds: Mapping[str, float] = immutabledict(),
    occupancy: float = 0.1,
    yields: str = "nest",
    optics: str = "geometry",
    without: Iterable[str] = (),
    compressor: str = "lz4",
    n_hosts: int = 1,
    n_threads: int = 1,
    start: datetime | None = None,
    realtime: float | None = None,
    force: bool = False,
    show_progress: bool = False,
    stop: Callable[[], bool] = bool,
) -> Path:
    """Simulate a run, and return the folder of its live data.

    An existing run of the same settings and release is kept, since it would get the same data.

    Besides the folder ``RUN_ID``, `output_folder` gets ``rundoc_RUN_ID.json`` (the run document),
    ``truth_RUN_ID.npy`` (see `load_truth`), ``parts_RUN_ID.npz`` (deposits and light, see
    `amstrax.simulation.parts`), ``config_RUN_ID.json`` (options for the context), and
    ``simulation_RUN_ID.json`` (settings of the simulation, with all numbers of the detector).

    Parameters
    ----------
    run_id
        Number of the run: digits.
    output_folder
        Folder for the run.
    detector
        ``xams``, ``xamsl``, or a `Detector`.
    source, rate, duration, seed, energy_range, source_position, backgrounds
        See `amstrax.simulation.blocks.Settings`.
    occupancy, yields, optics, without
        Likewise.
    compressor
        Of live data, ``lz4`` or ``blosc``.
    n_hosts, n_threads
        Number of readout processes, and of the threads of each.
    start
        Start of the run, to the second; None: a fixed time, or now with `realtime`.
    realtime
        Write the run as the DAQ would, so many seconds of it in a second; None: at once. Until the
        run ends, its document has no end, and it has no truth.
    force
        Replace an existing run.
    show_progress
        Show a progress bar.
    stop
        Called regularly; once it returns True, a run in real time ends as if the DAQ had been
        stopped, and another is abandoned.

    Raises
    ------
    InvalidOption
        (a ValueError) for impossible values.
    DataExists
        (a ValueError) when the run exists with other settings, or in part, without `force`.
    NotAvailable
        Without nestpy, unless `yields` is ``simple``.
    Stopped
        When the run was abandoned.
    OSError
        When `output_folder` cannot be written to.
    """
    settings = Settings(
        detector=detector if isinstance(detector, Detector) else find(detector),
        source=source,
        rate=rate,
        duration=duration,
        seed=seed,
        energy_range=energy_range,
        source_position=source_position,
        backgrounds=backgrounds,
        occupancy=occupancy,
        yields=yields,
        optics=optics,
        without=tuple(without),
    )
    for name, n in (("hosts", n_hosts), ("threads", n_threads)):
        if not 1 <= n <= 100:
            raise InvalidOption(f"{name} cannot be {n}: take 1 to 100")
    threads = {f"xams-daq_reader_{i}": n_threads for i in range(n_hosts)}
    redax.check_compressor(compressor)
    if realtime is not None and not 0 < realtime < float("inf"):
        raise InvalidOption(f"the speed of real time cannot be {realtime}: take more than 0")
    if start is None:
        start = START if realtime is None else datetime.now(UTC)
    start = start.astimezone(UTC).replace(microsecond=0)
    files = _Files(run_id, Path(output_folder).absolute())
    document = run_document(settings, run_id, start, files.output, threads, compressor)
    if not force and realtime is None and files.hold(document, all_settings(settings)):
        log.info("run %s is in %s already, with the same settings", run_id, files.output)
        return files.run
    files.check(force)
    simulated = blocks(settings)
    log.info("simulating run %s of %s, %s", run_id, settings.detector.name, files.output)
    files.output.mkdir(parents=True, exist_ok=True)
    for left in files.output.glob(f".{run_id}_*"):
        log.warning("%s is of another or a killed simulation: remove it, unless one runs", left)
    # On the same file system, so that complete files are moved at once
    with tempfile.TemporaryDirectory(
        prefix=f".{run_id}_", dir=files.output, ignore_cleanup_errors=True
    ) as folder:
        new = _Files(run_id, Path(folder))
        _write_json(new.config, _options(settings))
        _write_json(new.settings, all_settings(settings))
        run_dir = new.run
        if realtime is not None:
            # Visible from the first chunk on
            files.remove()
            _write_json(new.document, document)
            files.take_from(new)
            run_dir = files.run
        run_dir.mkdir()
        writer = RunWriter(
            run_dir,
            threads,
            settings.detector.chunk_length,
            settings.detector.chunk_overlap,
            compressor,
            settings.detector.fragment_samples,
            Pace(realtime, stop),
        )
        nanoseconds = _write(simulated, settings, start, writer, new, show_progress, stop, realtime)
        document["end"] = rundoc.to_json(start + timedelta(microseconds=nanoseconds // 1000))
        _write_json(new.document, document)
        files.take_from(new)
    return files.run


def all_settings(settings: Settings) -> dict[str, Any]:
    """Return the release of amstrax, and all settings of a simulation."""
    return {"amstrax": amstrax.__version__, **asdict(settings)}


def _summary(settings: Settings) -> dict[str, Any]:
    """Return release and settings, and of the detector what differs from that of its name."""
    summary = all_settings(settings)
    usual = DETECTORS.get(settings.detector.name)
    changed = {
        name: value
        for name, value in summary.pop("detector").items()
        if usual is None or getattr(usual, name) != value
    }
    return {**summary, "detector": settings.detector.name, "detector_values": changed}


def _options(settings: Settings) -> dict[str, Any]:
    """Return the options to process the run with."""
    return {} if settings.is_led else settings.acting.options()


def run_document(
    settings: Settings,
    run_id: str,
    start: datetime,
    output: Path,
    threads: Mapping[str, int],
    compressor: str,
) -> dict[str, Any]:
    """Return the run document of a run in progress, as the DAQ writes it."""
    detector = settings.detector
    mode = f"sim_{settings.source}"
    if settings.is_led:
        mode = "sim_ext_trig_ledcalibration"
    elif settings.source == "na22" and detector.external_channel is not None:
        mode += "_nai"
    board, n_channels = 77, max(8, *(channel + 1 for channel in detector.channels))
    registers = [
        {
            "reg": f"1{channel:x}80",
            "val": "100000" if channel == detector.sipm_channel else "110000",
            "board": board,
            "comment": "",
        }
        for channel in (range(n_channels) if detector.polarity_registers else ())
    ]
    return {
        "number": int(run_id),
        "name": run_id,
        "detectors": [detector.name],
        "user": "simulation",
        "mode": mode,
        "start": rundoc.to_json(start),
        "end": None,
        "daq_config": {
            "compressor": compressor,
            "processing_threads": dict(threads),
            "strax_chunk_length": detector.chunk_length / 1e9,
            "strax_chunk_overlap": detector.chunk_overlap / 1e9,
            "strax_fragment_payload_bytes": 2 * detector.fragment_samples,
            "strax_output_path": str(output),
            "boards": [{"board": board, "type": detector.board_type}],
            "registers": registers,
            "channels": {str(board): sorted(detector.channels)},
            "thresholds": {str(board): [detector.threshold] * len(detector.channels)},
        },
        rundoc.OPTIONS_FIELD: _options(settings),
        "data": [{"type": "live", "host": socket.gethostname(), "location": str(output)}],
        "tags": [],
        "comments": [],
        "simulation": _summary(settings),
    }


def load_options(path: str | Path) -> dict[str, Any]:
    """Return options for the ``config`` of the context from a run's ``config_RUN.json``.

    Raises InvalidOption (a ValueError) when the file cannot be read.
    """
    try:
        options = strict_json.load_object(path, InvalidOption)
    except InvalidOption as error:
        raise InvalidOption(
            f"options cannot be read: {error}. Name the file config_RUN.json of `amstrax simulate`"
        ) from None
    return strict_json.with_tuples(options)


class SimulatedRun(NamedTuple):
    """Folder of live data and file of the truth of a run of `simulate`."""

    run_dir: Path
    truth: Path

    @classmethod
    def at(cls, run_dir: Path, truth: Path | None = None) -> "SimulatedRun":
        """Return the run with live data in `run_dir`, and by default the truth next to it.

        Raises LiveDataNotFound (a FileNotFoundError) if a part is missing.
        """
        truth_name = f"truth_{run_dir.name}.npy"
        run = cls(run_dir.absolute(), truth or run_dir.absolute().parent / truth_name)
        for path in (run.run_dir, run.document_path, run.truth):
            if not path.exists():
                raise LiveDataNotFound(
                    f"{path} is missing: name the folder of a run's live data, with "
                    f"rundoc_{run.run_id}.json and {truth_name} next to it, as `amstrax simulate` "
                    "writes them"
                )
        return run

    @property
    def run_id(self) -> str:
        """Number of the run."""
        return self.run_dir.name

    def _beside(self, name: str) -> Path:
        return self.run_dir.parent / name.format(self.run_id)

    @property
    def document_path(self) -> Path:
        """File with the run document."""
        return self._beside("rundoc_{}.json")

    @property
    def parts(self) -> Path:
        """File with deposits and light, see `amstrax.simulation.parts`."""
        return self._beside("parts_{}.npz")

    def document(self) -> dict[str, Any]:
        """Return the run document."""
        return rundoc.from_json(str(self.document_path))

    def duration(self) -> float:
        """Return the duration of the run [s]."""
        document = self.document()
        end = rundoc.end_time(document)
        if end is None:
            raise InvalidOption(f"{self.document_path} has no end: the run is being taken")
        seconds = (end - rundoc.start_time(document)).total_seconds()
        if seconds <= 0:
            raise InvalidOption(
                f"{self.document_path} has a run of 0 s, since times in it have milliseconds: "
                "simulate a longer run"
            )
        return seconds

    def simulation(self) -> dict[str, Any]:
        """Return what the run document says of the simulation: release and settings."""
        found = self.document().get("simulation")
        if not isinstance(found, dict):
            raise InvalidOption(
                f"{self.document_path} does not say which simulation made the run: simulate it "
                "again with this release"
            )
        return found

    def options(self) -> dict[str, Any]:
        """Return the options of plugins from the file next to the run; empty without it."""
        path = self._beside("config_{}.json")
        return load_options(path) if path.exists() else {}

    def settings(self) -> dict[str, Any]:
        """Return the parameters of the simulation from the file next to the run; empty without it.

        Raises InvalidOption (a ValueError) if the file is invalid.
        """
        path = self._beside("simulation_{}.json")
        if not path.exists():
            return {}
        try:
            settings = strict_json.load_object(path, InvalidOption)
            settings["detector"]["context"]
        except (InvalidOption, LookupError, TypeError):
            raise InvalidOption(
                f"{path} lacks parameters of the simulation: simulate the run again"
            ) from None
        return settings


class _Files:
    """Live data and files of a run in one folder."""

    def __init__(self, run_id: str, output: Path):
        if not _RUN_ID.fullmatch(run_id):
            raise InvalidOption(f"a run cannot be called {run_id!r}: take digits, as 100001")
        self.run_id, self.output = run_id, output
        self.run = output / run_id
        self.truth = output / f"truth_{run_id}.npy"
        self.parts = output / f"parts_{run_id}.npz"
        self.config = output / f"config_{run_id}.json"
        self.settings = output / f"simulation_{run_id}.json"
        self.document = output / f"rundoc_{run_id}.json"

    def __iter__(self) -> Iterator[Path]:
        # The document is last: with it, the run is complete
        return iter((self.run, self.truth, self.parts, self.config, self.settings, self.document))

    def hold(self, document: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
        """Return whether the complete run is here, as these would make it."""
        if not all(path.exists() for path in self):
            return False
        try:
            found = strict_json.load_object(self.document, InvalidOption)
            found_settings = strict_json.load_object(self.settings, InvalidOption)
        except InvalidOption:
            return False
        is_complete = found.get("end") is not None
        return is_complete and (found | {"end": None}, found_settings) == (
            json.loads(_json(document)),
            json.loads(_json(settings)),
        )

    def check(self, force: bool) -> None:
        """Raise DataExists when files of the run exist, without `force`."""
        existing = [str(path) for path in self if path.exists()]
        if existing and not force:
            raise DataExists(
                f"{existing[0]} would be overwritten: take another run number or folder, "
                "or --force (force=True) to replace it"
            )

    def remove(self) -> None:
        """Remove the run, the document first."""
        for path in reversed(list(self)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def take_from(self, new: "_Files") -> None:
        """Move the files of `new` here, over existing ones."""
        if new.run.exists():
            self.remove()
        for path, new_path in zip(self, new, strict=True):
            if new_path.exists():
                os.replace(new_path, path)


def _write(
    simulated: Iterable[Block],
    settings: Settings,
    start: datetime,
    writer: RunWriter,
    files: "_Files",
    show_progress: bool,
    stop: Callable[[], bool],
    realtime: float | None,
) -> int:
    """Write live data and truth to `files`; return the length of the run [ns]."""
    t0 = int(start.timestamp()) * 1_000_000_000
    truth_file = TruthFile(files.truth)
    done = 0.0
    with (
        contextlib.closing(truth_file),
        contextlib.closing(PartsFile(files.parts)) as parts_file,
        tqdm(
            total=settings.duration,
            desc=f"simulating {settings.source}",
            unit="s",
            disable=not show_progress,
            bar_format=_BAR,
        ) as bar,
    ):
        for block in simulated:
            if stop():
                if realtime is None:
                    raise Stopped("stopped before the run was complete: its files are removed")
                log.warning("stopped: the run ends after %.1f s", done / 1e9)
                break
            for field in ("time", "endtime", "s1_center_time", "s2_center_time"):
                there = block.truth[field] >= 0
                block.truth[field][there] += t0
            truth_file.append(block.truth)
            for name, rows in (("deposits", block.deposits), ("light", block.light)):
                rows["time"] += t0
                parts_file.append(name, rows, t0 + block.parts_until)
            writer.add(block.records, block.complete_until)
            bar.update((block.complete_until - done) / 1e9)
            done = block.complete_until
        nanoseconds = min(int(done), settings.nanoseconds)
        writer.end(nanoseconds)
    log.info(
        "%.1f s of %s in %s: %d events, %d fragments",
        nanoseconds / 1e9,
        settings.source,
        settings.detector.name,
        truth_file.n,
        writer.n_records,
    )
    return nanoseconds


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(_json(content) + "\n", encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, default=dict)
