"""Savers of data that is registered in the run database when it is complete."""

import shutil
from collections.abc import Callable
from typing import Any

from amstrax.strax_ext.storage import CheckedBackend, CheckedSaver


class RegisteringSaver(CheckedSaver):
    """Saver that registers data once it is complete, and removes data that has failed."""

    # What registers it holds a connection
    allow_fork = False

    def __init__(self, *args: Any, register: Callable[[dict], None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._register = register

    def close(self, wait_for: list | tuple = ()) -> None:
        if self.closed:
            # strax closes again what has failed to close
            return
        try:
            super().close(wait_for)
        except BaseException:
            shutil.rmtree(self.tempdirname, ignore_errors=True)
            raise
        if "exception" in self.md or self.got_exception is not None:
            shutil.rmtree(self.dirname, ignore_errors=True)
        else:
            self._register(self.md)


class RegisteringBackend(CheckedBackend):
    """Backend that saves with `RegisteringSaver`."""

    saver_class = RegisteringSaver
