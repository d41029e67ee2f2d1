"""The page with plots of a run: of its events and peaks, or of its LED pulses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bokeh.models import Checkbox, Column

from amstrax.dashboard import render, stored
from amstrax.dashboard.figures import Drawn, Scales, fit, of_run
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
        self._source: Any = None
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
        if "events" in drawn.sources:
            self._source = drawn.sources["events"]
            self._source.selected.on_change("indices", lambda attr, old, new: self._select(new))
        if "pulses" in drawn.sources:
            self.load("the gains", self._find_gains, self._take_gains)

    def _select(self, rows: list[int]) -> None:
        numbers = [int(self._source.data["event_number"][row]) for row in rows[:_MOST_LINKS]]
        self._selected.text = render.html(
            "selected_events.html", run_id=self.run_id, numbers=numbers, total=len(rows)
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
        shown = source.tags[0]
        if shown["shown"] < shown["of"]:
            notes.append(
                f"{shown['shown']:,} of {shown['of']:,} {name}, at random, are points that can be "
                "selected"
            )
    return notes
