"""Pages of one run: overview, plots of its data, and single events."""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import Column

from amstrax import rundoc
from amstrax.analyses import interactive
from amstrax.analyses.loading import area_unit
from amstrax.corrections import lookup
from amstrax.dashboard import figures, render, run_overview
from amstrax.dashboard.actions import ActionsPanel
from amstrax.dashboard.figures import Drawn, Linked, Marks
from amstrax.dashboard.live_progress import INTERVAL, LivePart, LogPart
from amstrax.dashboard.page import (
    Page,
    button,
    checkbox,
    select,
    set_text,
    text_input,
    wrapped,
)
from amstrax.exceptions import (
    AmstraxError,
    InvalidOption,
    InvalidRunDocument,
    NoGain,
    NotAvailable,
    UsageError,
)
from amstrax.rundb import documents, transfer

#: Number of links to selected events
_MOST_LINKS = 30
#: Longest event whose records are shown [ns]
_LONGEST = 5_000_000
#: Plots of calibrations: name -> method of the context, and its data type
_CALIBRATIONS = {
    "electron lifetime": ("plot_lifetime", "event_info"),
    "gate and cathode": ("plot_drift_edges", "event_info"),
    "energy": ("plot_energy", "event_info"),
    "bands of cS2 / cS1": ("plot_bands", "event_info"),
    "maps of light": ("plot_light_map", "event_info"),
    "Kr-83m": ("plot_kr83m_delays", "event_kr83m"),
    "single electrons": ("plot_single_electrons", "single_electrons"),
    "alphas of XAMSL": ("plot_alphas", "radon_peak_basics"),
}
_LOADING = "<p>Loading …</p>"
#: Number of bins that suits each figure
_USUAL = "of each plot"


def run_id_of(text: str) -> str:
    """Return a run id as in run documents; empty if `text` is not valid."""
    try:
        return rundoc.check_run_name(text.strip()).zfill(6)
    except InvalidRunDocument:
        return ""


class OfRun(Page):
    """Base of the pages of one run."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.run_id = run_id_of(self.argument("id"))
        links = render.html("run_links.html", run_id=self.run_id, page=self.path)
        self.links = self.html(links, name="links")
        if not self.run_id:
            self.report(
                "the run", UsageError("the address has no run id: write it as run?id=006724")
            )

    @classmethod
    def title_of(cls, arguments: dict[str, list[str]]) -> str:
        """Return the title of the page with these arguments in its address."""
        return f"Run {run_id_of(arguments.get('id', [''])[-1]) or '?'}{cls.title}"

    def document(self) -> dict[str, Any]:
        """Return the run document, without secrets."""
        found = documents.find_run(self.site.collection(), self.run_id)
        return run_overview.without_secrets(found)

    def context(self) -> Any:
        """Return the context of the address, or else the one that processes the run."""
        name = self.argument("context")
        if name not in self.site.contexts():
            name = self.site.context_for(self.document())
        return self.site.context(name, self.argument("version") or None)

    def set_run_address(self, **arguments: Any) -> None:
        """Set the address, with run, context and version as they are in it."""
        kept = {name: self.argument(name) for name in ("context", "version")}
        self.set_address(id=self.run_id, **arguments, **kept)


class RunPage(OfRun):
    """Status, timeline, data, options, corrections, log and document of a run."""

    path, title = "run", ""

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not self.run_id:
            self.show(self.links)
            return
        self._about = self.html("<p>Asking the run database …</p>", name="about")
        self._json = self.html("", name="document")
        self._data = self.html("", name="data")
        self._options = self.html("", name="options")
        self._context = select(
            "context",
            "Context",
            ["by mode of the run", *self.site.contexts()],
            self._load_data,
            self.argument("context"),
            180,
        )
        usual = self.site.corrections_version or "none"
        self._version = self.text_input(
            "version", "Corrections version", self._load_data, 180, placeholder=usual
        )
        self._live = LivePart(self, self.run_id, self._follow_soon)
        self._log = LogPart(self, lambda: self.run_id)
        self._panel = ActionsPanel(self, lambda: [self.run_id], self._refresh)
        self._sort: tuple[str, bool] | None = None
        self.show(
            self.links,
            self._panel.model,
            self._about,
            self._live.model,
            self.html("<h2>Data</h2>"),
            wrapped(self._context, self._version),
            self._data,
            self._options,
            self._log.model,
            self._json,
        )
        self._is_due = self._is_follow_due = False
        self._refresh()
        self.site.watcher.add(self.run_id, self._on_change)

    def close(self) -> None:
        super().close()
        if self.run_id:
            self.site.watcher.remove(self.run_id, self._on_change)

    def _on_change(self) -> None:
        self._is_due = True
        if not self._is_closed:
            self.doc.add_next_tick_callback(lambda: self._follow())

    def _follow_soon(self) -> None:
        if not self._is_follow_due:
            self._is_follow_due = True
            interval = min(INTERVAL, self.site.refresh)
            self.doc.add_timeout_callback(self._follow_now, int(1000 * interval))

    def _follow_now(self) -> None:
        self._is_follow_due = False
        self._follow()

    def _follow(self) -> None:
        """Refresh a run that has changed; what changes quickly is refreshed more often."""
        if self._is_due and self.is_free("the run", "its data"):
            self._is_due = False
            self._refresh()
        elif self._live.is_growing:
            self._live.refresh()
            self._log.refresh()
        if self._is_due or self._live.is_growing:
            self._follow_soon()

    def _refresh(self) -> None:
        self._live.refresh(again=True)
        self._log.refresh(again=True)

        def take(found: tuple[str, str, tuple[str, bool]]) -> None:
            set_text(self._about, found[0])
            set_text(self._json, found[1])
            if found[2] != self._sort:
                self._sort = context, is_taking = found[2]
                self._panel.runs_changed([context], is_taking)

        self.load("the run", self._find_about, take, place=self._about)
        self._load_data()

    def _find_about(self) -> tuple[str, str, tuple[str, bool]]:
        """Return summary and document of the run, as HTML, its context, and if it is taken now."""
        document, followed = self.document(), self.site.followed()
        about = render.html(
            "about.html",
            summary=transfer.summary(document, followed),
            status=documents.state_of(document, followed),
            timeline=run_overview.timeline(document),
            failures=documents.failures_of(document),
            job=documents.job_of(document),
            lost=self.site.lost_jobs([document]).get(self.run_id, ""),
        )
        sort = self.site.context_for(document), documents.is_being_taken(document)
        return about, render.html("document.html", json=render.pretty(document)), sort

    def _load_data(self) -> None:
        context, version = self._context.value, self._version.value.strip()
        if context not in self.site.contexts():
            context = ""

        def take(found: tuple[str, str]) -> None:
            set_text(self._data, found[0])
            set_text(self._options, found[1])
            self.set_address(id=self.run_id, context=context, version=version)

        self.load("its data", lambda: self._find_data(context, version), take)

    def _find_data(self, context: str, version: str) -> tuple[str, str]:
        """Return the data of a context, and its options and corrections, as HTML."""
        document = self.document()
        context = context or self.site.context_for(document)
        with self.site.few:
            st = self.site.context(context, version or None)
            states = run_overview.states(st, self.run_id, document)
            options = lookup.options_of(st, self.run_id)
        covered = _versions(self.run_id, version or self.site.corrections_version)
        return (
            render.html("data.html", states=states, context=context),
            render.html("options.html", options=options, versions=covered),
        )


def _versions(run_id: str, asked: str | None) -> dict[str, str]:
    """Return versions of the corrections, each with why it does not cover the run, if so."""
    result = {}
    for version in dict.fromkeys([*lookup.known_versions(), *([asked] if asked else [])]):
        try:
            missing = lookup.missing(version, run_id)
            result[version] = f"no value for {', '.join(missing)}" if missing else ""
        except (AmstraxError, OSError) as error:
            result[version] = " ".join(str(error).split())
    return result


class DataPage(OfRun):
    """Plots of a run: of its events and peaks, or of its LED pulses."""

    path, title = "data", ": plots"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._choices = {
            name: checkbox(name, label, self._draw, self.argument(name, default) == "1")
            for name, label, default in (
                ("log", "logarithmic scales", "1"),
                ("log_counts", "logarithmic counts and rates", "0"),
                ("corrected", "corrected areas (cS1, cS2)", "1"),
            )
        }
        self._bins = select(
            "bins",
            "Bins",
            [_USUAL, "30", "60", "120", "240"],
            self._draw,
            self.argument("bins"),
            130,
        )
        self._text = self.html(_LOADING if self.run_id else "", name="loaded")
        self._selected = self.html("", name="selected")
        self._figures = Column(sizing_mode="stretch_width", name="figures")
        self._gains = self.html("", name="gains")
        self._drawn: Drawn | None = None
        self._is_linking = False
        self._calibration = select(
            "calibration", "Calibration", ["none", *_CALIBRATIONS], self._calibrate
        )
        self._fit = self.html("", name="fit")
        choices = wrapped(self._bins, *self._choices.values(), self._calibration)
        parts = self.links, choices, self._text, self._fit, self._selected, self._figures
        self.show(*parts, self._gains)
        if self.run_id:
            self._draw()

    def _calibrate(self) -> None:
        method, data_type = _CALIBRATIONS.get(self._calibration.value, ("", ""))
        self._fit.text = _LOADING if method else ""

        def work() -> str:
            if not method:
                return ""
            with self.site.few, figures.DRAWING:
                st = self.context()
                if not figures.is_stored(st, self.run_id, data_type):
                    return render.html("calibration.html", missing=data_type)
                png = getattr(st, method)(self.run_id, progress_bar=False)._repr_png_()
            picture = base64.b64encode(png).decode("ascii")
            return render.html("calibration.html", picture=picture, method=method)

        self.load("the calibration", work, self._fit)

    def _draw(self) -> None:
        values = {name: box.active for name, box in self._choices.items()}
        bins = None if self._bins.value == _USUAL else int(self._bins.value)
        scales = figures.Scales(**values, bins=bins)
        self.set_run_address(**{name: int(value) for name, value in values.items()}, bins=bins)
        self._text.text = _LOADING

        def work() -> Drawn:
            with self.site.few:
                return figures.of_run(self.context(), self.run_id, scales)

        self.load("the plots", work, self._take)

    def report(self, what: str, error: Exception) -> None:
        """Show an error; if the plots failed, also in their place."""
        super().report(what, error)
        if what == "the plots":
            self._text.text = "<p>No data to plot.</p>"
            self._figures.children = []

    def _take(self, drawn: Drawn) -> None:
        self._text.text = render.html("loaded.html", text=drawn.text, notes=_notes(drawn.sources))
        children: list[Any] = []
        for title, group in drawn.groups.items():
            children += [self.html(f"<h2>{render.text(title)}</h2>"), figures.fit(group)]
        self._figures.children = children
        self._selected.text = ""
        self._drawn = drawn
        linked = drawn.linked
        if linked is not None:
            for kind in ("events", "peaks"):
                drawn.sources[kind].selected.on_change(
                    "indices",
                    lambda attr, old, new, kind=kind: self._on_selected(drawn, linked, kind, new),
                )
        if "pulses" in drawn.sources:
            self.load("the gains", self._find_gains, self._gains)

    # Figures of one source share its selection; the page links that of events and that of peaks

    def _on_selected(self, drawn: Drawn, linked: Linked, kind: str, rows: list[int]) -> None:
        """Select the peaks of selected ``events``, or the events of selected ``peaks``."""
        if drawn is not self._drawn or self._is_linking:
            return
        if kind == "events":
            events, other, others = rows, "peaks", linked.links.inside(rows).tolist()
        else:
            events = others = linked.links.around(rows).tolist()
            other = "events"
        # Keep the other callback from responding
        self._is_linking = True
        try:
            drawn.sources[other].selected.indices = others
        finally:
            self._is_linking = False
        self._show_selected(drawn, events)
        self._mark(drawn, linked, events, kind == "events" and bool(rows))

    def _mark(self, drawn: Drawn, linked: Linked, rows: list[int], is_wanted: bool) -> None:
        """Mark the peaks of events if not all peaks are points; or remove the marks."""
        source = drawn.sources.get("marked")
        if source is None:
            return

        def work() -> Marks | None:
            if not is_wanted:
                return None
            return figures.marks(self.context(), self.run_id, linked.start[rows], linked.end[rows])

        def take(found: Marks | None) -> None:
            if drawn is not self._drawn:
                return
            if found is not None or len(source.data["area"]):
                source.data = {name: [] for name in source.data} if found is None else found.columns
            self._show_selected(drawn, rows, found)

        self.load("the peaks of the selected events", work, take)

    def _show_selected(self, drawn: Drawn, rows: list[int], found: Marks | None = None) -> None:
        of_events = drawn.sources["events"].data["event_number"]
        self._selected.text = render.html(
            "selected_events.html",
            run_id=self.run_id,
            numbers=[int(of_events[row]) for row in rows[:_MOST_LINKS]],
            total=len(rows),
            marked=None if found is None else len(found.columns["area"]),
            peaks=None if found is None else found.total,
        )

    def _find_gains(self) -> str:
        """Return the gain of each channel and method, or why it has none, as HTML."""
        from amstrax.analyses import channel_gains

        st = self.context()
        pulses = figures.load(st, self.run_id, "led_calibration")
        options = st.get_metadata(self.run_id, "led_calibration")["lineage"]["led_calibration"][2]
        windows = {name: tuple(options[name]) for name in ("led_window", "noise_window")}
        try:
            gains = channel_gains(pulses, **windows)
        except NoGain as error:
            raise NotAvailable(str(error)) from None
        rows = []
        for channel, methods in gains.items():
            for method, gain in methods.items():
                if isinstance(gain, NoGain):
                    rows.append((channel, method, "none", str(gain)))
                else:
                    text = f"{gain.gain.value:.4g} ± {gain.error:.2g}"
                    rows.append((channel, method, text, f"{gain.occupancy.value:.3g}"))
        return render.html("gains.html", rows=rows)


def _notes(sources: Mapping[str, Any]) -> list[str]:
    """Return which share of the data is points, where not all are."""
    counts = {name: source.tags[0] for name, source in sources.items() if source.tags}
    return [
        f"{count['shown']:,} of {count['of']:,} {name}, at random, are points that can be selected"
        for name, count in counts.items()
        if count["shown"] < count["of"]
    ]


class _Event(NamedTuple):
    """An event, peak or pulse, with its position among `total` of them."""

    noun: str
    number: int
    position: int
    total: int
    facts: dict[str, str]
    figures: list[Any]
    notes: list[str]


#: Columns of an event that are shown: label, without unit of area, and factor
_FACTS = {
    "s1_area": ("S1 [{unit}]", 1),
    "s2_area": ("S2 [{unit}]", 1),
    "cs1": ("cS1 [{unit}]", 1),
    "cs2": ("cS2 [{unit}]", 1),
    "drift_time": ("drift time [µs]", 1e-3),
    "x": ("x [mm]", 1),
    "y": ("y [mm]", 1),
    "z": ("z [mm]", 1),
    "n_peaks": ("peaks", 1),
}


class EventsPage(OfRun):
    """One event of a run, or one peak or LED pulse where the context makes no events."""

    path, title = "events", ": events"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._event: int | None = self.number("event")
        self._index: Any = None
        #: What the run is shown by, and the sort of data that tells of it
        self._noun, self._sort = "event", "event_info"
        self._before = button("previous", "‹ Previous", lambda: self._show_event(-1))
        self._after = button("next", "Next ›", lambda: self._show_event(1))
        self._number = text_input("event", "Event number", self._jump)
        self._complete = checkbox(
            "complete",
            "only those with S1 and S2",
            self._show_event,
            self.argument("complete") == "1",
        )
        self._text = self.html(_LOADING if self.run_id else "", name="event_text")
        self._figures = Column(sizing_mode="stretch_width", name="figures")
        controls = wrapped(self._before, self._after, self._number, self._complete)
        self.show(self.links, controls, self._text, self._figures)
        if self.run_id:
            self._show_event()

    def _jump(self) -> None:
        text = self._number.value.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            self.report("the event", InvalidOption(f"{text!r} is no event: write it as 12"))
        elif int(text) != self._event:
            self._event = int(text)
            self._show_event()

    def _show_event(self, step: int = 0) -> None:
        number, complete = self._event, self._complete.active

        def work() -> _Event:
            with self.site.few:
                return self._find(number, step, complete)

        self.load("the event", work, self._take, place=self._text)

    def _find(self, number: int | None, step: int, complete: bool) -> _Event:
        st = self.context()
        index = self._index
        if index is None:
            index, self._noun, self._sort = figures.windows(st, self.run_id)
            self._index = index
        if complete:
            index = index[np.isfinite(index["drift_time"])]
        if not len(index):
            raise NotAvailable(
                f"run {self.run_id} has no {self._noun}s{' with S1 and S2' if complete else ''}"
            )
        numbers = index["event_number"]
        place = 0 if number is None else int(np.searchsorted(numbers, number))
        place = min(place, len(index) - 1)
        is_there = numbers[place] == number
        if step == 0 and number is not None and not complete and not is_there:
            raise NotAvailable(
                f"run {self.run_id} has no {self._noun} {number}: it has {numbers[0]} to "
                f"{numbers[-1]}"
            )
        if step < 0 or (step > 0 and is_there):
            place = min(max(place + step, 0), len(index) - 1)
        chosen, notes = index[place], list[str]()
        draw = self._draw_event if self._noun == "event" else self._draw_records
        facts, drawn = draw(st, chosen, notes)
        number = int(chosen["event_number"])
        return _Event(self._noun, number, place + 1, len(index), facts, drawn, notes)

    def _draw_event(
        self, st: Any, chosen: np.void, notes: list[str]
    ) -> tuple[dict[str, str], list[Any]]:
        """Return facts and figures of an event; append missing data to `notes`."""
        time_range = (int(chosen["time"]), int(chosen["endtime"]))
        kinds = ["event_info"]
        for kind in ("event_waveform", "event_area_per_channel"):
            if figures.is_stored(st, self.run_id, kind):
                kinds.append(kind)
            else:
                notes.append(f"{kind} is not stored")
        rows = figures.load(st, self.run_id, kinds, time_range=time_range)
        row = rows[rows["event_number"] == chosen["event_number"]][0]
        unit = area_unit(st, self.run_id, "event_info")
        drawn = self._waveforms(st, time_range, notes, unit)
        if len(kinds) == 3:
            layout = interactive.event(row, area_unit=unit)
            drawn += [figure for line in layout.children for figure in line.children]
        facts = {
            label.format(unit=unit): (
                "–" if not np.isfinite(row[field]) else f"{row[field] * factor:.5g}"
            )
            for field, (label, factor) in _FACTS.items()
            if field in row.dtype.names
        }
        return facts, drawn

    def _draw_records(
        self, st: Any, chosen: np.void, notes: list[str]
    ) -> tuple[dict[str, str], list[Any]]:
        """Return the same of a peak and what is around it, or of a pulse of an LED run."""
        start, end = int(chosen["time"]), int(chosen["endtime"])
        drawn = []
        if figures.is_stored(st, self.run_id, "peaks", "peak_basics"):
            unit = area_unit(st, self.run_id, figures.name_of(st, "peak_basics") or "peak_basics")
            drawn = self._waveforms(st, (start, end), notes, unit)
        elif figures.is_stored(st, self.run_id, "records"):
            records = figures.load(st, self.run_id, "records", time_range=(start, end))
            drawn = [interactive.channels(records, start, title="Records of the channels")]
        else:
            notes.append("records are not stored, so no waveforms are shown")
        began = figures.span(st, self.run_id, self._sort)[0]
        facts = {
            "since the start [s]": f"{(start - began) / 1e9:.6f}",
            "length [µs]": f"{(end - start) / 1e3:.5g}",
        }
        return facts, drawn

    def _waveforms(
        self, st: Any, time_range: tuple[int, int], notes: list[str], unit: str
    ) -> list[Any]:
        """Return figures of peaks and records; append missing data to `notes`."""
        if not figures.is_stored(st, self.run_id, "peaks", "peak_basics"):
            notes.append("peaks are not stored, so no waveforms are shown")
            return []
        start, end = time_range
        peaks = figures.load(st, self.run_id, "peaks", time_range=time_range)
        types = figures.load(st, self.run_id, "peak_basics", ("time", "type"), time_range)["type"]
        above = interactive.waveforms(
            peaks, types, start, title="Peaks of the event", area_unit=unit
        )
        if not figures.is_stored(st, self.run_id, "records"):
            notes.append("records are not stored, so those of the channels are not shown")
            return [above]
        if end - start > _LONGEST:
            notes.append("the event is too long to show its records")
            return [above]
        records = figures.load(st, self.run_id, "records", time_range=time_range)
        below = interactive.channels(records, start, title="Records of the channels")
        if len(records) and len(peaks):
            below.x_range = above.x_range
        return [above, below]

    def _take(self, event: _Event) -> None:
        self._event = event.number
        self._number.title = f"{event.noun.capitalize()} number"
        self._complete.visible = event.noun == "event"
        self._number.value = str(event.number)
        self._before.disabled = event.position == 1
        self._after.disabled = event.position == event.total
        self._text.text = render.html("event.html", **event._asdict())
        self._figures.children = [figures.fit(event.figures)] if event.figures else []
        self.set_run_address(event=event.number, complete=int(self._complete.active) or "")
