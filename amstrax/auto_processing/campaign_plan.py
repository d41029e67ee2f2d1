"""Plan campaigns: what is to be made of which runs, and what that takes."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import strax

from amstrax import contexts, rundoc, settings, strict_json
from amstrax.auto_processing import amstraxer, process_run
from amstrax.auto_processing.amstraxer import ProcessingOptions, to_dict_tuple
from amstrax.auto_processing.grouping import ASSUMED, PER_RUN, measured_rate, megabytes_of
from amstrax.auto_processing.loop import RunSelection, has_source
from amstrax.exceptions import AmstraxError, UsageError
from amstrax.rundb import campaigns, documents
from amstrax.rundb.campaigns import Campaign, Kind, RunState

log = logging.getLogger(__name__)

#: Largest number of runs that rates are measured on, the newest ones
_MOST_MEASURED = 500
#: Without measurements: input of a run [MB], and sizes of all raw data and of another data type, as
#: fractions of the input
_MB_OF_RUN = 100.0
_RAW_FRACTION, _OTHER_FRACTION = 1.0, 0.05

_RATE_FIELDS = ("name", "number", "data.type", "data.size_mb")


class Rates(NamedTuple):
    """Measured processor time [s] per MB of input, and sizes of data types per size of input.

    ``n_runs`` is the number of runs behind the time, 0 without measurement; the sizes have their
    own.
    """

    seconds_per_mb: float
    n_runs: int
    sizes: Mapping[str, float]
    n_sizes: Mapping[str, int]


@dataclass
class Planned:
    """A campaign with what its plan says: states of runs, and names of left-out runs."""

    campaign: Campaign
    states: Mapping[str, RunState]
    unknown: Sequence[str] = ()
    remarks: list[str] = field(default_factory=list)

    def names(self, state: str) -> list[str]:
        """Return the names of the runs in a state."""
        return [name for name, found in self.states.items() if found.state == state]

    def text(self) -> str:
        """Return the plan for the user."""
        campaign = self.campaign
        counts = Counter(found.state for found in self.states.values())
        todo = [campaign.index[name] for name in self.names(campaigns.WAITING)]
        mb = sum(campaign.mb[i] for i in todo)
        disk = sum(campaign.disk_mb[i] for i in todo)
        lines = [
            f"campaign {campaign.name}: {len(campaign.runs)} runs of {campaign.detector}, to "
            + "; ".join(
                f"{', '.join(kind.targets)} ({kind.context}, {campaign.kind_of_run.count(i)} runs)"
                for i, kind in enumerate(campaign.kinds)
            )
        ]
        for state in campaigns.STATES:
            if counts[state]:
                names = self.names(state)
                shown = "" if state == campaigns.WAITING else f": {_some(names)}"
                lines.append(f"  {state:12s} {counts[state]:6d}{shown}")
        if self.unknown:
            lines.append(f"  not in the run database, left out: {_some(self.unknown)}")
        lines += [
            f"input: {mb / 1e3:.3g} GB",
            f"processor time: {duration(campaign.seconds)}",
            f"disk: {disk / 1e3:.3g} GB",
            *(f"  {folder}: {free / 1e9:.4g} GB free" for folder, free in self.free()),
            campaign.estimate,
            *self.remarks,
        ]
        return "\n".join(lines)

    def free(self) -> list[tuple[str, int]]:
        """Return the folders for data, with the free space of their disks [bytes]."""
        places = dict.fromkeys(self.campaign.places)
        return [(folder, free_space(Path(folder))) for folder in places]

    def warn(self) -> None:
        """Log a warning if the disks have too little space."""
        todo = [self.campaign.index[name] for name in self.names(campaigns.WAITING)]
        need = sum(self.campaign.disk_mb[i] for i in todo) * 1e6
        for folder, free in self.free():
            if need > free:
                log.warning(
                    "%s has %.4g GB free, and about %.4g GB are needed: free some, or submission "
                    "waits for space",
                    folder,
                    free / 1e9,
                    need / 1e9,
                )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def duration(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.3g} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"


def free_space(folder: Path) -> int:
    """Return the free space of the disk of a folder, or of its parent if it is missing [bytes]."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def options_text(options: ProcessingOptions, more_options: Sequence[str] = ()) -> str:
    """Return the options of a campaign's jobs as JSON, with absolute folders."""
    values = {
        name: value
        for name, value in asdict(options).items()
        if name in _KEPT_OPTIONS and value != getattr(ProcessingOptions(), name)
    }
    for name in ("output_folder", "live_data_dir"):
        if name in values:
            values[name] = str(settings.expanded(values[name]).absolute())
    return json.dumps(values | {"more_options": list(more_options)}, sort_keys=True)


#: Options of jobs that a campaign keeps
_KEPT_OPTIONS = (
    *("targets", "context", "detector", "output_folder", "live_data_dir", "allow_incomplete"),
    *("config_kwargs", "corrections_version", "reconstruction", "workers"),
)


def options_of(campaign: Campaign) -> tuple[ProcessingOptions, tuple[str, ...]]:
    """Return the options of a campaign's jobs, and other options of process_run."""
    values = to_dict_tuple(json.loads(campaign.options))
    more_options = values.pop("more_options")
    return ProcessingOptions(**values), more_options


def make_plan(
    name: str,
    run_ids: Sequence[str],
    options: ProcessingOptions,
    runs: Any,
    more_options: Sequence[str] = (),
    max_failures: int = documents.MAX_FAILURES,
    watch: Callable[[Iterable], Iterable] = iter,
) -> Planned:
    """Return the plan of a campaign; nothing is changed.

    `runs` is the collection of run documents; `watch` wraps the iterator of runs, for example with
    a progress bar. Raises UsageError when an option is invalid, no folder for data is set, or no
    run is in the run database.
    """
    campaigns.check_name(name)
    plan = process_run.find_plan(options, check_corrections=True)
    if options.output_folder is None and not settings.processed_data(plan.detector):
        raise UsageError(
            "no folder for data, which must not depend on where a campaign is started: give "
            f"--output_folder, or set {plan.detector.upper()}_PROCESSED_DATA"
        )
    options = replace(options, detector=plan.detector, targets=plan.targets)
    places = process_run.folders(plan, options.output_folder)
    time = documents.server_time(runs)
    found = campaigns.read_runs(runs, run_ids, [*process_run.PLAN_FIELDS, rundoc.OPTIONS_FIELD])
    known = [run_id for run_id in dict.fromkeys(run_ids) if run_id in found]
    if not known:
        raise UsageError("none of the runs is in the run database: check their numbers")
    kinds, kind_of_run, remarks = _kinds(known, found, plan, options, runs, watch)
    campaign = Campaign(
        name=name,
        detector=plan.detector,
        options=options_text(options, more_options),
        places=(str(places[0]), str(places[1])),
        raw_types=plan.raw_types,
        kinds=tuple(kinds),
        runs=tuple(known),
        kind_of_run=tuple(kind_of_run),
        mb=(),
        disk_mb=(),
        estimate="",
        seconds=0.0,
        time=time,
        max_failures=max_failures,
    )
    states = {name: state_of(campaign, found[name]) for name in known}
    rates = measure(runs, plan)
    sizes = [megabytes_of(found[name], plan) for name in watch(known)]
    measured = [mb for mb in sizes if mb is not None]
    mean = sum(measured) / len(measured) if measured else _MB_OF_RUN
    mb = [mean if size is None else size for size in sizes]
    disk = [
        sum(
            _fraction(rates, data_type, campaign) * size
            for data_type in campaign.kind(name).hashes
            if campaign.entry(found[name], data_type) is None
        )
        for name, size in zip(known, mb, strict=True)
    ]
    todo = [i for i, name in enumerate(known) if states[name].state == campaigns.WAITING]
    seconds = sum(mb[i] * rates.seconds_per_mb + (not rates.n_runs) * PER_RUN for i in todo)
    n_unknown = sum(sizes[i] is None for i in todo)
    if n_unknown:
        what = "mean of the others" if measured else "assumed"
        remarks.append(f"input of {n_unknown} runs is unknown: {mean:.3g} MB a run ({what})")
    campaign = replace(
        campaign,
        mb=tuple(round(size, 3) for size in mb),
        disk_mb=tuple(round(size, 3) for size in disk),
        estimate=_describe(rates, campaign),
        seconds=seconds,
    )
    unknown = [run_id for run_id in dict.fromkeys(run_ids) if run_id not in found]
    return Planned(campaign, states, unknown, remarks)


def _kinds(
    known: Iterable[str],
    found: Mapping[str, Mapping[str, Any]],
    plan: process_run.Plan,
    options: ProcessingOptions,
    runs: Any,
    watch: Callable[[Iterable], Iterable],
) -> tuple[list[Kind], list[int], list[str]]:
    """Return what is made of runs of each kind, the kind of each run, and remarks.

    The plan of a run, and options in its document, tell its kind.
    """
    kinds: list[Kind] = []
    numbers: dict[tuple, int] = {}
    kind_of_run, remarks = [], []
    for name in watch(known):
        document = found[name]
        key: tuple = ("",)
        try:
            of_run = process_run.plan_of_run(plan, document)
            key = (of_run, repr(rundoc.options(document)))
            if key not in numbers:
                kind = find_kind(of_run, options, documents.find_run(runs, name))
                if kind not in kinds:
                    kinds.append(kind)
                numbers[key] = kinds.index(kind)
            kind_of_run.append(numbers[key])
        except AmstraxError as error:
            # Its job will fail for the same reason, which the run document then has
            remarks.append(f"run {name}: {error}")
            kind_of_run.append(-1)
    if not kinds:
        raise UsageError(f"no run can be planned: {remarks[0]}")
    # Any kind will do for runs that fail
    return kinds, [max(number, 0) for number in kind_of_run], remarks


def find_kind(
    of_run: process_run.Plan, options: ProcessingOptions, document: Mapping[str, Any]
) -> Kind:
    """Return what is made of a run, with the lineages that its data will have.

    Errors are those of `amstraxer.make_context`.
    """
    run_id = rundoc.check_run_name(documents.name_of(document))
    chosen, _ = process_run.options_of_run(options, of_run)
    chosen = replace(chosen, targets=of_run.targets, context=of_run.context, run_document=document)
    st, _ = amstraxer.make_context(chosen, run_id)
    stored = set(of_run.targets)
    for target in of_run.targets:
        for data_type in st.get_dependencies(target):
            if st.get_save_when(data_type) == strax.SaveWhen.ALWAYS:
                stored.add(data_type)
    stored |= set(contexts.raw_data_types(st))
    hashes = {name: str(st.key_for(run_id, name).lineage_hash) for name in sorted(stored)}
    return Kind(of_run.context, of_run.targets, hashes)


def check_lineages(campaign: Campaign, runs: Any) -> None:
    """Check that this amstrax makes the lineages that were planned; raise UsageError otherwise."""
    options, _ = options_of(campaign)
    plan = process_run.find_plan(options)
    for number, kind in enumerate(campaign.kinds):
        run_id = campaign.runs[campaign.kind_of_run.index(number)]
        document = documents.find_run(runs, run_id)
        now = find_kind(process_run.plan_of_run(plan, document), options, document)
        for data_type, lineage_hash in kind.hashes.items():
            if now.hashes.get(data_type) != lineage_hash:
                raise UsageError(
                    f"campaign {campaign.name} was planned for {data_type} of lineage "
                    f"{lineage_hash}, and now it would be {now.hashes.get(data_type)} (run "
                    f"{run_id}): use amstrax as it was then, or plan a new campaign"
                )


def state_of(
    campaign: Campaign,
    document: Mapping[str, Any],
    now: datetime | None = None,
    retry_pause: float = 0.0,
) -> RunState:
    """Return the state of a run, also whether raw data of a waiting run is on this machine.

    Parameters are those of `Campaign.state_of`.
    """
    try:
        state = campaign.state_of(document, now or campaign.time, retry_pause)
        if state.state == campaigns.WAITING and not has_input(campaign, document):
            return RunState(
                campaigns.NO_RAW_DATA, "neither live data nor raw data is on this machine"
            )
    except (OSError, RuntimeError, ValueError) as error:
        return RunState(campaigns.FAILED, strict_json.one_line(error))
    return state


def has_input(campaign: Campaign, document: Mapping[str, Any]) -> bool:
    """Return whether live or raw data of a run is on this machine; errors as of `has_source`."""
    if has_source(document, RunSelection(campaign.detector, (), campaign.raw_types)):
        return True
    name = rundoc.check_run_name(documents.name_of(document))
    options, _ = options_of(campaign)
    folders = [Path(options.live_data_dir) / name] if options.live_data_dir else []
    hashes = campaign.kind(name).hashes
    folders += [
        Path(campaign.places[0]) / f"{name}-{data_type}-{hashes[data_type]}"
        for data_type in campaign.raw_types
        if data_type in hashes
    ]
    return any(folder.is_dir() for folder in folders)


def _sizes(document: Mapping[str, Any]) -> dict[str, float]:
    """Return the size of the last registered data of each type [MB]."""
    return {
        str(entry["type"]): size
        for entry in documents.data_of(document)
        if isinstance(entry.get("type"), str)
        and (size := documents.megabytes_of(entry)) is not None
    }


def measure(runs: Any, plan: process_run.Plan) -> Rates:
    """Return the rates of the newest runs that are done; of time, those with the same targets."""
    done = documents.has_status("done")
    found = documents.read(runs, done, _RATE_FIELDS, sort=[("number", -1)], limit=_MOST_MEASURED)
    sizes: dict[str, list[tuple[float, float]]] = {}
    for document in found:
        mb = megabytes_of(document, plan)
        for data_type, size in _sizes(document).items() if mb else ():
            sizes.setdefault(data_type, []).append((mb or 0.0, size))
    return Rates(
        *measured_rate(runs, plan),
        {name: sum(s for _, s in rows) / sum(m for m, _ in rows) for name, rows in sizes.items()},
        {name: len(rows) for name, rows in sizes.items()},
    )


def _fraction(rates: Rates, data_type: str, campaign: Campaign) -> float:
    """Return the size of a data type per size of input."""
    if data_type in rates.sizes:
        return rates.sizes[data_type]
    if data_type in campaign.raw_types:
        return _RAW_FRACTION / len(campaign.raw_types)
    return _OTHER_FRACTION


def _describe(rates: Rates, campaign: Campaign) -> str:
    """Return a text on how the numbers of a plan were found."""
    if rates.n_runs:
        time = (
            f"processor time: {rates.seconds_per_mb:.3g} s/MB, measured on {rates.n_runs} runs "
            "with these targets, without the start of jobs"
        )
    else:
        time = (
            f"processor time is assumed, since no run has these targets yet: {ASSUMED:g} s/MB and "
            f"{PER_RUN:g} s a run"
        )
    types = {data_type for kind in campaign.kinds for data_type in kind.hashes}
    measured = sorted(types & rates.sizes.keys())
    assumed = sorted(types - rates.sizes.keys())
    parts = []
    if measured:
        n = min(rates.n_sizes[data_type] for data_type in measured)
        parts.append(f"measured on {n} runs or more for {', '.join(measured)}")
    if assumed:
        parts.append(
            f"assumed for {', '.join(assumed)}: {_RAW_FRACTION:g} of the input for raw data, "
            f"{_OTHER_FRACTION:g} for each other data type"
        )
    return f"{time}\ndisk: {'; '.join(parts)}"
