"""The page about processing: what waits, runs and has failed, the engine's queue, the loop."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bokeh.models import Button, Select, TextInput

from amstrax.auto_processing import scheduling, status_file
from amstrax.auto_processing.engines.base import KnownJob
from amstrax.dashboard import actions, render, run_overview
from amstrax.dashboard.actions_panel import ActionsPanel
from amstrax.dashboard.log_part import LogPart
from amstrax.dashboard.page import STYLE, Page, describe, wrapped
from amstrax.dashboard.run_page import run_id_of
from amstrax.rundb import documents

#: Runs shown of each status
MOST = 50

_FIELDS = (
    *("name", "number", "mode", "start", "end", "tags", "processing_status"),
    *("processing_failed", "processing_job", "processing_claim"),
)


class _Run(NamedTuple):
    run_id: str
    status: documents.Status
    failures: int
    job: Mapping[str, Any]
    tags: list[str]


class _Found(NamedTuple):
    counts: dict[str, int]
    runs: list[_Run]
    status: str


class _Loop(NamedTuple):
    is_on: bool
    switch: Mapping[str, Any]
    said: Mapping[str, Any] | None
    age: float | None


class ProcessingPage(Page):
    """What is processed."""

    path, title = "processing", "Processing"

    def __init__(self, *args: Any):
        super().__init__(*args)
        given = self.argument("status", "failed")
        self._status = Select(
            name="status",
            title="Runs that are",
            options=list(documents.STATUSES),
            value=given if given in documents.STATUSES else "failed",
            width=150,
            stylesheets=[STYLE],
        )
        self._status.on_change("value", lambda attr, old, new: self._look_at_runs(again=True))
        self._runs = TextInput(
            name="runs",
            title="Runs to act on (numbers)",
            value=self.argument("runs"),
            placeholder="6724, 6725",
            width=320,
            stylesheets=[STYLE],
        )
        self._runs.on_change("value", lambda attr, old, new: self._runs_changed())
        self._loop = self.html("<p>Asking …</p>", name="loop")
        self._switches = [
            self._switch("switch_on", "Switch on", True),
            self._switch("switch_off", "Switch off", False),
        ]
        self._switched = self.html("", name="switched")
        self._table = self.html("<p>Asking the run database …</p>", name="by_status")
        self._queue = self.html("<p>Asking the engine …</p>", name="queue")
        self._panel = ActionsPanel(self, self.run_ids, self._after)
        self._log = LogPart(self, lambda: next(iter(self.run_ids()), ""))
        self.show(
            self.html("<h2>Automatic processing</h2>"),
            self._loop,
            wrapped(*self._switches),
            self._switched,
            self.html("<h2>Runs by status</h2>"),
            wrapped(self._status),
            self._table,
            self.html(f"<h2>Queue of engine {render.text(self.site.engine_name)}</h2>"),
            self._queue,
            self.html("<h2>Act on runs</h2>"),
            wrapped(self._runs),
            self._panel.model,
            self._log.model,
        )
        self.repeat(self._refresh)
        self._log.start()

    def run_ids(self) -> list[str]:
        """Return the runs to act on."""
        words = self._runs.value.replace(",", " ").split()
        return list(dict.fromkeys(filter(None, map(run_id_of, words))))

    def _runs_changed(self) -> None:
        self._panel.runs_changed()
        self._log.refresh(again=True)
        self._keep_address()

    def _keep_address(self) -> None:
        self.set_address(status=self._status.value, runs=",".join(self.run_ids()))

    def _switch(self, name: str, label: str, is_on: bool) -> Button:
        button = Button(
            name=name,
            label=label,
            width=120,
            disabled=not self.may_act(),
            stylesheets=[STYLE],
        )
        button.on_click(lambda: self._on_switch(is_on))
        return button

    def _on_switch(self, is_on: bool) -> None:
        def work() -> str:
            try:
                actions.switch(self, is_on)
            except Exception as error:
                return describe(error)
            return ""

        def take(problem: str) -> None:
            self._switched.text = render.html("result.html", rows=[], problem=problem)
            self._look_at_loop(again=True)

        self.load("the switch", work, take)

    def _refresh(self) -> None:
        self._look_at_runs()
        self._look_at_queue()
        self._look_at_loop()

    def _after(self) -> None:
        self._look_at_runs(again=True)
        self._look_at_queue(again=True)
        self._log.refresh(again=True)

    # Runs

    def _look_at_runs(self, again: bool = False) -> None:
        status = self._status.value
        self._keep_address()

        def work() -> _Found:
            collection = self.site.collection()
            counts = {
                each: collection.count_documents(run_overview.Search(statuses=(each,)).filter())
                for each in documents.STATUSES
            }
            search = run_overview.Search(statuses=(status,))
            page = run_overview.page(collection, search, _FIELDS, limit=MOST)
            return _Found(counts, [_run(document) for document in page.runs], status)

        def take(found: _Found) -> None:
            self._set(self._table, render.html("by_status.html", most=MOST, **found._asdict()))

        self.load("the runs by status", work, take, again)

    # Engine

    def _look_at_queue(self, again: bool = False) -> None:
        def work() -> list[KnownJob]:
            return self.site.engine().jobs()

        def take(jobs: list[KnownJob]) -> None:
            self._set(self._queue, render.html("queue.html", jobs=jobs))

        self.load(f"the queue of engine {self.site.engine_name}", work, take, again)

    # The loop

    def _look_at_loop(self, again: bool = False) -> None:
        def work() -> _Loop:
            switches = self.site.switches()
            path = self.site.log_folder / f"auto_processing_{self.site.detector}.json"
            said, age = None, None
            found = status_file.read(path)
            if found is not None:
                said, written = found
                age = (datetime.now(UTC) - written).total_seconds()
            switch = switches.find_one({"name": "auto_processing"}) or {}
            return _Loop(
                scheduling.is_switched_on(switches), run_overview.without_secrets(switch), said, age
            )

        def take(loop: _Loop) -> None:
            self._set(self._loop, render.html("loop.html", **loop._asdict()))

        self.load("automatic processing", work, take, again)

    @staticmethod
    def _set(part: Any, text: str) -> None:
        if part.text != text:
            part.text = text


def _run(document: Mapping[str, Any]) -> _Run:
    return _Run(
        documents.name_of(document) or "?",
        documents.status_of(document),
        documents.failures_of(document),
        documents.job_of(document),
        documents.tags_of(document),
    )
