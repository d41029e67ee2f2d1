"""The page with plots of a run: of its events and peaks, or of its LED pulses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bokeh.models import Checkbox, Column

from amstrax.dashboard import render, stored
from amstrax.dashboard.figures import Drawn, Linked, Marks, Scales, fit, marks, of_run
from amstrax.dashboard.page import STYLE, wrapped
from amstrax.dashboard.run_page import OfRun
from amstrax.exceptions import NoGain, NotAvailable

#: So many links to selected events are shown
_MOST_LINKS = 30


class _Gains(NamedTuple):
    """Gains of the channels of an LED run: channel -> method -> (gain, error, or why none)."""

    rows: list[tuple[int, str, str, str]]


class DataPage(OfRun):
    """Plots of a run."""

    path, title = "data", ": plots"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._choices = {
            name: Checkbox(
                name=name,
                label=label,
                active=self.argument(name, default) == "1",
                stylesheets=[STYLE],
            )
            for name, label, default in (
                ("log", "logarithmic scales", "1"),
                ("log_counts", "logarithmic counts and rates", "0"),
                ("corrected", "corrected areas (cS1, cS2)", "1"),
            )
        }
        for box in self._choices.values():
            box.on_change("active", lambda attr, old, new: self._draw())
        self._text = self.html("<p>Loading …</p>", name="loaded")
        self._selected = self.html("", name="selected")
        self._figures = Column(sizing_mode="stretch_width", name="figures")
        self._gains = self.html("", name="gains")
        self._drawn: Drawn | None = None
        self._is_linking = False
        self.show(
            self.links,
            wrapped(*self._choices.values()),
            self._text,
            self._selected,
            self._figures,
            self._gains,
        )
        if self.is_known:
            self._draw()

    def _draw(self) -> None:
        values = {name: box.active for name, box in self._choices.items()}
        scales = Scales(**values)
        self.set_address(
            id=self.run_id,
            context=self.argument("context"),
            version=self.argument("version"),
            **{name: int(value) for name, value in values.items()},
        )
        self._text.text = "<p>Loading …</p>"
        self.load("the plots", lambda: of_run(self.context(), self.run_id, scales), self._take)

    def report(self, what: str, error: Exception) -> None:
        """Say what is wrong; also where plots would be."""
        super().report(what, error)
        if what == "the plots":
            self._text.text = "<p>There is nothing to plot.</p>"
            self._figures.children = []

    def _take(self, drawn: Drawn) -> None:
        self._text.text = render.html("loaded.html", text=drawn.text, notes=_notes(drawn.sources))
        children: list[Any] = []
        for title, figures in drawn.groups.items():
            children += [self.html(f"<h2>{render.text(title)}</h2>"), fit(figures)]
        self._figures.children = children
        self._selected.text = ""
        self._drawn = drawn
        linked = drawn.linked
        if linked is not None:
            for name, function in (("events", self._on_events), ("peaks", self._on_peaks)):
                drawn.sources[name].selected.on_change(
                    "indices",
                    lambda attr, old, new, function=function: function(drawn, linked, new),
                )
        if "pulses" in drawn.sources:
            self.load("the gains", self._find_gains, self._take_gains)

    # Selections: each source has one, which its figures share; from one to the other it goes here

    def _on_events(self, drawn: Drawn, linked: Linked, rows: list[int]) -> None:
        """Select the peaks of the events that have been selected."""
        if drawn is not self._drawn or self._is_linking:
            return
        self._select(drawn.sources["peaks"], linked.links.inside(rows).tolist())
        self._say(drawn, rows)
        self._mark(drawn, linked, rows, bool(rows))

    def _on_peaks(self, drawn: Drawn, linked: Linked, rows: list[int]) -> None:
        """Select the events that have the peaks that have been selected."""
        if drawn is not self._drawn or self._is_linking:
            return
        events = linked.links.around(rows).tolist()
        self._select(drawn.sources["events"], events)
        self._say(drawn, events)
        self._mark(drawn, linked, events, False)

    def _select(self, source: Any, rows: list[int]) -> None:
        # That is no choice of the user, to be answered in its turn
        self._is_linking = True
        try:
            source.selected.indices = rows
        finally:
            self._is_linking = False

    def _mark(self, drawn: Drawn, linked: Linked, rows: list[int], is_wanted: bool) -> None:
        """Mark the peaks of events that are no points, or none."""
        source = drawn.sources.get("marked")
        if source is None:
            return

        def work() -> Marks | None:
            if not is_wanted:
                return None
            return marks(self.context(), self.run_id, linked.start[rows], linked.end[rows])

        def take(found: Marks | None) -> None:
            if drawn is not self._drawn:
                return
            if found is not None or len(source.data["area"]):
                source.data = {name: [] for name in source.data} if found is None else found.columns
            self._say(drawn, rows, found)

        self.load("the peaks of the selected events", work, take)

    def _say(self, drawn: Drawn, rows: list[int], found: Marks | None = None) -> None:
        """Say which events are selected, and how many of their peaks are marked."""
        of_events = drawn.sources["events"].data["event_number"]
        self._selected.text = render.html(
            "selected_events.html",
            run_id=self.run_id,
            numbers=[int(of_events[row]) for row in rows[:_MOST_LINKS]],
            total=len(rows),
            marked=None if found is None else len(found.columns["area"]),
            peaks=None if found is None else found.total,
        )

    def _find_gains(self) -> _Gains:
        from amstrax.analyses import channel_gains

        st = self.context()
        pulses = stored.load(st, self.run_id, "led_calibration")
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
        return _Gains(rows)

    def _take_gains(self, gains: _Gains) -> None:
        self._gains.text = render.html("gains.html", rows=gains.rows)


def _notes(sources: Mapping[str, Any]) -> list[str]:
    """Return what of the points is shown, where it is not all."""
    notes = []
    for name, source in sources.items():
        if not source.tags:
            continue
        shown = source.tags[0]
        if shown["shown"] < shown["of"]:
            notes.append(
                f"{shown['shown']:,} of {shown['of']:,} {name}, at random, are points that can be "
                "selected"
            )
    return notes
