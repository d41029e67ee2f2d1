"""The page with one event: its peaks, waveforms and light, straight from stored data."""

from typing import Any, NamedTuple

import numpy as np
from bokeh.models import Button, Checkbox, Column, TextInput

from amstrax.analyses import interactive
from amstrax.analyses.loading import area_unit
from amstrax.dashboard import render, stored
from amstrax.dashboard.figures import fit, in_layout
from amstrax.dashboard.page import STYLE, wrapped
from amstrax.dashboard.run_page import OfRun
from amstrax.exceptions import InvalidOption, NotAvailable

#: Longest event whose records are shown [ns]
_LONGEST = 5_000_000
_INDEX = ("time", "endtime", "event_number", "drift_time")


class _Event(NamedTuple):
    number: int
    position: int
    total: int
    facts: dict[str, str]
    figures: list[Any]
    notes: list[str]


class EventsPage(OfRun):
    """An event of a run, with those before and after it."""

    path, title = "events", ": events"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._event: int | None = self.number("event")
        self._index: Any = None
        self._before = self._button("previous", "‹ Previous", lambda: self._step(-1))
        self._after = self._button("next", "Next ›", lambda: self._step(1))
        self._number = TextInput(name="event", title="Event number", width=120, stylesheets=[STYLE])
        self._number.on_change("value", lambda attr, old, new: self._jump(new))
        self._complete = Checkbox(
            name="complete",
            label="only those with S1 and S2",
            active=self.argument("complete") == "1",
            align="end",
            stylesheets=[STYLE],
        )
        self._complete.on_change("active", lambda attr, old, new: self._show_event())
        self._text = self.html("<p>Loading …</p>", name="event_text")
        self._figures = Column(sizing_mode="stretch_width", name="figures")
        self.show(
            self.links,
            wrapped(self._before, self._after, self._number, self._complete),
            self._text,
            self._figures,
        )
        if self.is_known:
            self._show_event()

    def _button(self, name: str, label: str, function: Any) -> Button:
        button = Button(name=name, label=label, width=110, align="end", stylesheets=[STYLE])
        button.on_click(function)
        return button

    def _jump(self, text: str) -> None:
        text = text.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            self.report("the event", InvalidOption(f"{text!r} is no event: write it as 12"))
        elif int(text) != self._event:
            self._event = int(text)
            self._show_event()

    def _step(self, by: int) -> None:
        self._show_event(by)

    def _show_event(self, by: int = 0) -> None:
        number, complete = self._event, self._complete.active
        self.load("the event", lambda: self._find(number, by, complete), self._take)

    def _find(self, number: int | None, by: int, complete: bool) -> _Event:
        st = self.context()
        index = self._index
        if index is None:
            index = self._index = stored.load(st, self.run_id, "event_info", _INDEX)
        if complete:
            index = index[np.isfinite(index["drift_time"])]
        if not len(index):
            raise NotAvailable(
                f"run {self.run_id} has no events{' with S1 and S2' if complete else ''}"
            )
        place = 0 if number is None else int(np.searchsorted(index["event_number"], number))
        place = min(max(place, 0), len(index) - 1)
        if by == 0 and number is not None and not complete:
            if index["event_number"][place] != number:
                raise NotAvailable(
                    f"run {self.run_id} has no event {number}: it has "
                    f"{index['event_number'][0]} to {index['event_number'][-1]}"
                )
        elif by > 0 and index["event_number"][place] == number:
            place = min(place + 1, len(index) - 1)
        elif by < 0:
            place = max(place - 1, 0)
        return self._draw(st, index, place)

    def _draw(self, st: Any, index: np.ndarray, place: int) -> _Event:
        chosen = index[place]
        within = (int(chosen["time"]), int(chosen["endtime"]))
        kinds = ["event_info"]
        notes = []
        for kind in ("event_waveform", "event_area_per_channel"):
            if stored.is_stored(st, self.run_id, kind):
                kinds.append(kind)
            else:
                notes.append(f"{kind} is not stored")
        rows = stored.load(st, self.run_id, kinds, within=within)
        row = rows[rows["event_number"] == chosen["event_number"]][0]
        figures: list[Any] = []
        unit = area_unit(st, self.run_id, "event_info")
        if stored.is_stored(st, self.run_id, "peaks", "peak_basics"):
            peaks = stored.load(st, self.run_id, "peaks", within=within)
            types = stored.load(st, self.run_id, "peak_basics", ("time", "type"), within)["type"]
            figures += self._waveforms(st, peaks, types, within, notes, unit)
        else:
            notes.append("peaks are not stored, so there are no waveforms")
        if len(kinds) == 3:
            layout = interactive.event(row, None, None, area_unit=unit)
            figures += in_layout(layout)
        return _Event(
            int(row["event_number"]), place + 1, len(index), _facts(row, unit), figures, notes
        )

    def _waveforms(
        self,
        st: Any,
        peaks: np.ndarray,
        types: np.ndarray,
        within: tuple[int, int],
        notes: list[str],
        unit: str,
    ) -> list[Any]:
        above = interactive.waveforms(
            peaks, types, within[0], title="Peaks of the event", area_unit=unit
        )
        if not stored.is_stored(st, self.run_id, "records"):
            notes.append("records are not stored, so those of the channels are not shown")
            return [above]
        if within[1] - within[0] > _LONGEST:
            notes.append("the event is too long to show its records")
            return [above]
        records = stored.load(st, self.run_id, "records", within=within)
        below = interactive.channels(records, within[0], title="Records of the channels")
        if len(records) and len(peaks):
            below.x_range = above.x_range
        return [above, below]

    def _take(self, event: _Event) -> None:
        self._event = event.number
        if self._number.value != str(event.number):
            self._number.value = str(event.number)
        self._before.disabled = event.position == 1
        self._after.disabled = event.position == event.total
        self._text.text = render.html("event.html", **event._asdict())
        self._figures.children = [fit(event.figures)] if event.figures else []
        self.set_address(
            id=self.run_id,
            event=event.number,
            complete=int(self._complete.active) or "",
            context=self.argument("context"),
            version=self.argument("version"),
        )


def _facts(row: np.void, unit: str) -> dict[str, str]:
    """Return what the event's table says of it."""
    shown = (
        (f"S1 [{unit}]", "s1_area", 1),
        (f"S2 [{unit}]", "s2_area", 1),
        (f"cS1 [{unit}]", "cs1", 1),
        (f"cS2 [{unit}]", "cs2", 1),
        ("drift time [µs]", "drift_time", 1e-3),
        ("x [mm]", "x", 1),
        ("y [mm]", "y", 1),
        ("z [mm]", "z", 1),
        ("peaks", "n_peaks", 1),
    )
    names = row.dtype.names or ()
    return {
        label: "–" if not np.isfinite(row[field]) else f"{row[field] * factor:.5g}"
        for label, field, factor in shown
        if field in names
    }
