"""Simulated runs on disk, and their processing: shared by `amstrax validate` and `demo`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import rundoc, strict_json
from amstrax.exceptions import InvalidOption, LiveDataNotFound

if TYPE_CHECKING:
    import strax

    from amstrax.auto_processing import jobs


class SimulatedRun(NamedTuple):
    """Where the parts of a simulated run are; see `amstrax.simulation.simulate`."""

    run_dir: Path
    truth: Path

    @classmethod
    def at(cls, run_dir: Path, truth: Path | None = None) -> "SimulatedRun":
        """Return the run whose live data is in `run_dir`; the truth is beside it unless given.

        Raises
        ------
        LiveDataNotFound
            (a FileNotFoundError) when a part of it is missing.
        """
        run = cls(run_dir.absolute(), truth or run_dir.absolute().parent / _truth_name(run_dir))
        for path in (run.run_dir, run.document_path, run.truth):
            if not path.exists():
                raise LiveDataNotFound(
                    f"{path} is not there: name the folder of a run's live data, beside which lie "
                    f"rundoc_{run.run_id}.json and {_truth_name(run_dir)}, as `amstrax simulate` "
                    "writes them"
                )
        return run

    @property
    def run_id(self) -> str:
        """Number of the run."""
        return self.run_dir.name

    @property
    def document_path(self) -> Path:
        """File with the run document."""
        return self.run_dir.parent / f"rundoc_{self.run_id}.json"

    def duration(self) -> float:
        """Return the duration of the run [s]."""
        document = rundoc.from_json(str(self.document_path))
        end = rundoc.end_time(document)
        if end is None:
            raise InvalidOption(f"{self.document_path} has no end: the run is being taken")
        return (end - rundoc.start_time(document)).total_seconds()

    def options(self) -> dict[str, Any]:
        """Return the options to process it with, of the file beside it; none without that."""
        from amstrax.simulation import load_options

        path = self.run_dir.parent / f"config_{self.run_id}.json"
        return load_options(path) if path.exists() else {}

    def settings(self) -> dict[str, Any]:
        """Return what it was simulated with, of the file beside it; nothing without that.

        Raises
        ------
        InvalidOption
            (a ValueError) when the file holds something else, or the run is not of XAMS.
        """
        path = self.run_dir.parent / f"simulation_{self.run_id}.json"
        if not path.exists():
            return {}
        try:
            settings = strict_json.load_object(path, InvalidOption)
            context = settings["detector"]["context"]
        except (InvalidOption, LookupError, TypeError):
            raise InvalidOption(
                f"{path} does not say what the run was simulated with: simulate it again"
            ) from None
        if context != "xams":
            raise InvalidOption(
                f"run {self.run_id} is processed in context {context}, which has no events to "
                "judge: take a run of XAMS"
            )
        return settings

    def context(self, folder: Path, options: Mapping[str, Any]) -> "strax.Context":
        """Return a context with the data that `process` made."""
        from amstrax import contexts
        from amstrax.auto_processing.amstraxer import to_dict_tuple

        return contexts.xams(
            output_folder=folder, init_rundb=False, config=to_dict_tuple(dict(options))
        )

    def process(
        self,
        folder: Path,
        targets: Sequence[str],
        options: Mapping[str, Any],
        stop: "jobs.Stop",
        workers: int = 1,
        progress: bool | None = None,
        from_scratch: bool = False,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        """Process it as `amstraxer` does.

        Parameters
        ----------
        folder
            Folder for processed data.
        targets
            Data types to make.
        options
            For the plugins.
        stop
            When this is set, the work ends with an error.
        workers
            Number of cores.
        progress
            Show a bar; None: in a terminal.
        from_scratch
            Make all data again, also what is there.
        document
            Run document; None: that beside the run.

        Raises
        ------
        AmstraxError
            When it cannot be processed.
        """
        from amstrax.auto_processing import amstraxer
        from amstrax.rundb import transfer

        given = self.document_path if document is None else transfer.to_json(document)
        bar = {None: [], True: ["--progress"], False: ["--no-progress"]}[progress]
        arguments = amstraxer.parse_args(
            [
                self.run_id,
                "--context=xams",
                f"--output_folder={folder}",
                f"--live_data_dir={self.run_dir.parent}",
                f"--testing_rundoc={given}",
                f"--config_kwargs={json.dumps(options)}",
                '--context_kwargs={"init_rundb": false}',
                f"--workers={workers}",
                *bar,
                *(["--from_scratch", "--build_lowlevel"] if from_scratch else []),
                "--target",
                *targets,
            ]
        )
        amstraxer.process(arguments, stop)


def _truth_name(run_dir: Path) -> str:
    return f"truth_{run_dir.name}.npy"
