"""Page about processing: runs by status, queue of the engine, automatic processing, actions."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from bokeh.models import TextInput

from amstrax.auto_processing.loop import is_switched_on, read_status
from amstrax.dashboard import actions, render, run_overview
from amstrax.dashboard.live_progress import LogPart
from amstrax.dashboard.page import Page, button, describe, select, wrapped
from amstrax.exceptions import UsageError
from amstrax.rundb import documents

#: Runs shown of each status
MOST = 50

_FIELDS = (
    *("name", "number", "mode", "start", "end", "tags", "processing_status"),
    *("processing_failed", "processing_job", "processing_claim"),
)


class ProcessingPage(Page):
    """Processing of all runs."""

    path, title = "processing", "Processing"

    def __init__(self, *args: Any):
        super().__init__(*args)
        given = self.argument("status")
        self._status = select(
            "status",
            "Runs that are",
            [(state, render.state(state)) for state in documents.STATES],
            lambda: self._load_runs(again=True),
            given if given in documents.STATES else "failed",
        )
        title = "Runs to act on (numbers, or choose below)"
        self._runs = self.runs_input(title, self._runs_changed)
        # Set by page.html when the check box of a run is clicked
        self._toggled = TextInput(visible=False, name="toggled")
        self._toggled.on_change("value", lambda attr, old, new: self._toggle(new))
        self._loop = self.html("<p>Asking …</p>", name="loop")
        off = not self.may_act()
        switches = [
            button("switch_on", "Switch on", lambda: self._on_switch(True), 120, off),
            button("switch_off", "Switch off", lambda: self._on_switch(False), 120, off),
        ]
        self._switched = self.html("", name="switched")
        self._table = self.html("<p>Asking the run database …</p>", name="by_status")
        self._queue = self.html("<p>Asking the engine …</p>", name="queue")
        self._panel = actions.ActionsPanel(self, self._run_ids, self._after)
        self._log = LogPart(self, lambda: next(iter(actions.known_runs(self._runs.value)[0]), ""))
        self.show(
            self.html("<h2>Runs by status</h2>"),
            wrapped(self._status, self._runs),
            self._panel.model,
            self._table,
            self._log.model,
            self.html(f"<h2>Queue of engine {render.text(self.site.engine_name)}</h2>"),
            self._queue,
            self.html("<h2>Automatic processing</h2>"),
            self._loop,
            wrapped(*switches),
            self._switched,
            self._toggled,
        )
        self.repeat(self._refresh)
        self._log.start()

    def _run_ids(self) -> list[str]:
        return actions.understood(self._runs.value)

    def _toggle(self, pressed: str) -> None:
        """Add a run to those to act on, or remove it, after a click on its check box."""
        run_id, is_on, _ = pressed.split(" ")
        run_ids, problems = actions.known_runs(self._runs.value)
        if not problems and (run_id in run_ids) != (is_on == "on"):
            changed = [*run_ids, run_id] if is_on == "on" else [r for r in run_ids if r != run_id]
            self._runs.value = ", ".join(changed)

    def _runs_changed(self) -> None:
        problems = actions.known_runs(self._runs.value)[1]
        if problems:
            self.report("the runs to act on", UsageError("; ".join(problems)))
        else:
            self.clear_report("the runs to act on")
        self._panel.runs_changed()
        self._log.refresh(again=True)
        self._keep_address()

    def _keep_address(self) -> None:
        self.set_address(status=self._status.value, runs=self._runs.value.strip())

    def _on_switch(self, is_on: bool) -> None:
        def work() -> str:
            try:
                actions.switch(self, is_on)
            except Exception as error:
                return describe(error)
            return ""

        def take(problem: str) -> None:
            self._switched.text = render.html("result.html", rows=[], problem=problem)
            self._load_loop(again=True)

        self.load("the switch", work, take)

    def _refresh(self) -> None:
        self._load_runs()
        self._load_queue()
        self._load_loop()

    def _after(self) -> None:
        self._load_runs(again=True)
        self._load_queue(again=True)
        self._log.refresh(again=True)

    def _load_runs(self, again: bool = False) -> None:
        status, chosen = self._status.value, actions.known_runs(self._runs.value)[0]
        self._keep_address()

        def count() -> dict[str, int]:
            collection, followed = self.site.collection(), self.site.followed()
            return {
                each: collection.count_documents(documents.has_state(each, followed=followed))
                for each in documents.STATES
            }

        def find() -> list[dict[str, Any]]:
            collection, followed = self.site.collection(), self.site.followed()
            search = run_overview.Search(statuses=(status,), followed=followed)
            page = run_overview.page(collection, search, _FIELDS, limit=MOST)
            lost = self.site.lost_jobs(page.runs)
            return [_run(document, followed, lost) for document in page.runs]

        def work() -> str:
            # Counts take longer: an embedded store is read whole
            counts = self.site.shared(("counts",), count, fresh=again)
            runs = self.site.shared(("runs by status", status), find, fresh=again)
            return render.html(
                "by_status.html", counts=counts, runs=runs, status=status, chosen=chosen
            )

        self.load("the runs by status", work, self._table, again)

    def _load_queue(self, again: bool = False) -> None:
        def work() -> str:
            return render.html("queue.html", jobs=self.site.jobs(fresh=again))

        self.load(f"the queue of engine {self.site.engine_name}", work, self._queue, again)

    def _load_loop(self, again: bool = False) -> None:
        def work() -> str:
            switches = self.site.switches()
            path = self.site.log_folder / f"auto_processing_{self.site.detector}.json"
            said, age = None, None
            found = read_status(path)
            if found is not None:
                said, written = found
                age = (datetime.now(UTC) - written).total_seconds()
            switch = switches.find_one({"name": "auto_processing"}) or {}
            return render.html(
                "loop.html",
                is_on=is_switched_on(switches),
                switch=run_overview.without_secrets(switch),
                said=said,
                age=age,
            )

        self.load("automatic processing", work, self._loop, again)


def _run(
    document: Mapping[str, Any], followed: Collection[str], lost: Mapping[str, str]
) -> dict[str, Any]:
    run_id = documents.name_of(document) or "?"
    return {
        "run_id": run_id,
        "status": documents.state_of(document, followed),
        "failures": documents.failures_of(document),
        "job": documents.job_of(document),
        "tags": documents.tags_of(document),
        "lost": lost.get(run_id, ""),
    }
