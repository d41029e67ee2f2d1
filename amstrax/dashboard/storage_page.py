"""Page about storage: sizes of data, free space, and what newer data replaces."""

from collections import Counter
from typing import Any

from amstrax.dashboard import actions, render
from amstrax.dashboard.page import Page, set_text, wrapped
from amstrax.exceptions import UsageError
from amstrax.rundb.stored import Storage

#: Most commands that are shown for a host
_MOST = 200


class StoragePage(Page):
    """Storage of all runs, looked at in the background now and then."""

    path, title = "storage", "Storage"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._found: Storage | None = None
        self._runs = self.runs_input("Runs (numbers; empty: the largest)", self._show_runs)
        self._sums = self.html("<p>Looking at all data …</p>", name="storage")
        self._of_runs = self.html("", name="of_runs")
        self._old = self.html("", name="old")
        self.show(
            self._sums,
            self.html("<h2>What newer data replaces</h2>"),
            self._old,
            self.html("<h2>Runs</h2>"),
            wrapped(self._runs),
            self._of_runs,
        )
        self.repeat(self._refresh)

    def _refresh(self) -> None:
        try:
            found = self.site.storage.get()
        except Exception as error:
            if self._found is None:
                self._sums.text = ""
            self.report("the storage", error)
            return
        self.clear_report("the storage")
        if found is None or found is self._found:
            return
        self._found = found
        detector = self.site.detector

        def work() -> tuple[str, str]:
            old = render.html(
                "storage_old.html",
                commands=found.commands(detector, _MOST),
                n_of=Counter(each.host for each in found.old),
                n_bytes=sum(each.n_bytes or 0 for each in found.old),
                detector=detector,
            )
            return render.html("storage.html", storage=found), old

        self.load("the storage", work, self._take)
        self._show_runs()

    def _take(self, texts: tuple[str, str]) -> None:
        for part, text in zip((self._sums, self._old), texts, strict=True):
            set_text(part, text)

    def _show_runs(self) -> None:
        self.set_address(runs=self._runs.value.strip())
        numbers, problems = actions.known_runs(self._runs.value)
        found = self._found
        if problems:
            self.report("the runs", UsageError("; ".join(problems)))
            return
        self.clear_report("the runs")
        if found is None:
            return

        def work() -> str:
            runs = found.of_runs(numbers)
            return render.html("storage_runs.html", runs=runs, is_asked=bool(numbers))

        self.load("the runs", work, self._of_runs)
