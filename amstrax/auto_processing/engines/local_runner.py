"""Runner of a job of the local engine: wait, run the job, check its memory, record its end.

`amstrax.auto_processing.engines.local` starts this file, with the folder of the job and the
descriptors of three locked files: of the job (while a process of it lives), of the runner (while it
lives) and of the queue (while the job waits). It imports only the standard library, since each
waiting job has a runner.
"""

import contextlib
import fcntl
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time

#: Time between two searches for a free slot, by one runner at a time [s]
LOOK_EVERY = 0.1
#: Time between two checks of the memory of a job [s]
WATCH_EVERY = 1.0


class Cancelled(BaseException):
    """The job was cancelled before it started."""


class Runner:
    """Runs the job in `folder`; the other parameters are file descriptors."""

    def __init__(self, folder: str, job_lock: int, queue_lock: int):
        self.folder = folder
        self.job_lock = job_lock
        self.queue_lock = queue_lock
        with open(os.path.join(folder, "job.json"), encoding="utf-8") as file:
            self.job = json.load(file)
        self.cancelled = False
        self.waits = True
        self.process: subprocess.Popen | None = None

    def run(self) -> None:
        """Wait, run the job, and record how it ended."""
        signal.signal(signal.SIGTERM, self.on_cancel)
        # For a job that has not ended in time
        signal.signal(signal.SIGALRM, lambda *_: self.signal_job(signal.SIGKILL))
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            self.wait_for_turn()
            slot = self.take_slot()
            self.waits = False
        except Cancelled:
            self.leave_queue()
        end = {"code": None} if self.cancelled else self.run_job(slot)
        self.write("exit.json", end | {"cancelled": self.cancelled, "time": time.time()})

    def on_cancel(self, *_signal: object) -> None:
        """End the job, or leave the queue."""
        self.cancelled = True
        if self.process is not None:
            self.signal_job(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, self.job["grace"])
        elif self.waits:
            self.waits = False
            raise Cancelled

    def signal_job(self, number: int) -> None:
        """Send a signal to all processes of the job."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait_for_turn(self) -> None:
        """Wait until no job that was submitted earlier waits."""
        mine = int(os.path.basename(self.folder))
        jobs = os.path.dirname(self.folder)
        numbers = sorted(int(name) for name in os.listdir(jobs) if name.isdigit())
        for number in reversed([n for n in numbers if n < mine]):
            # The nearest job begins last, but may be cancelled while earlier ones wait
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(os.path.join(jobs, str(number), "waiting"), os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                finally:
                    os.close(descriptor)

    def take_slot(self) -> int:
        """Wait for a free slot, lock it, and return its descriptor."""
        slots = os.path.join(os.path.dirname(os.path.dirname(self.folder)), "slots")
        os.makedirs(slots, exist_ok=True)
        while True:
            for i in range(self.job["slots"]):
                descriptor = os.open(os.path.join(slots, str(i)), os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    os.close(descriptor)
            time.sleep(LOOK_EVERY)

    def leave_queue(self) -> None:
        """Give the next job its turn."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, "waiting"))
        os.close(self.queue_lock)

    def run_job(self, slot: int) -> dict[str, object]:
        """Run the job, and return how it ended; an orphan of it keeps its lock and slot."""
        try:
            self.process = subprocess.Popen(
                [self.job["script"]],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(self.job_lock, slot),
            )
        except OSError as error:
            self.leave_queue()
            return {"code": None, "error": f"it cannot be started: {error}"}
        self.write("started.json", {"pid": self.process.pid, "time": time.time()})
        self.leave_queue()
        if self.cancelled:
            self.on_cancel()
        too_much = self.watch()
        code = self.process.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        # End processes that it has left behind
        self.signal_job(signal.SIGKILL)
        if too_much:
            return {"code": code, "memory": too_much, "allowed": self.job["memory"]}
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return {"code": code, "memory": round(memory)}

    def watch(self) -> int:
        """Wait for the end of the job; kill it if it uses more memory than it asked for.

        Of a job for several runs only the process at work is killed, which costs one run: its
        parent continues. Returns that memory [MB], 0 if the job has ended by itself.
        """
        assert self.process is not None
        with contextlib.suppress(OSError):
            end = os.pidfd_open(self.process.pid)
            try:
                while not select.select([end], [], [], WATCH_EVERY)[0]:
                    processes = members(self.process.pid)
                    used = sum(map(memory_of, processes))
                    if used > self.job["memory"]:
                        children = [pid for pid in processes if pid != self.process.pid]
                        has_next = self.job.get("n_runs", 1) > 1 and children
                        for pid in children if has_next else processes:
                            with contextlib.suppress(ProcessLookupError, PermissionError):
                                os.kill(pid, signal.SIGKILL)
                        if has_next:
                            sys.stderr.write(
                                f"killed the process at work, since the job used {used:.0f} MB, "
                                f"more than its {self.job['memory']} MB: submit it with more "
                                "(--mem)\n"
                            )
                            continue
                        self.signal_job(signal.SIGKILL)
                        return round(used)
            finally:
                os.close(end)
        return 0

    def write(self, name: str, content: dict[str, object]) -> None:
        """Write a file of the job's folder atomically."""
        path = os.path.join(self.folder, name)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.new", path)


def members(leader: int) -> list[int]:
    """Return the processes of a session, its leader included, and all their descendants."""
    parents, found = {}, {leader}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit():
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    # After the program's name, which may hold any characters: state, parent,
                    # process group, session
                    words = file.read().rpartition(")")[2].split()
                parents[int(name)] = int(words[1])
                if int(words[3]) == leader:
                    found.add(int(name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def memory_of(pid: int) -> float:
    """Return the memory of a process [MB], with its part of shared memory."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            found = re.search(r"^Pss:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def main(folder: str, *descriptors: str) -> None:
    """Continue as a daemon; the parent process ends as soon as that can be cancelled."""
    job_lock, _runner_lock, queue_lock = map(int, descriptors)
    runner = Runner(folder, job_lock, queue_lock)
    # Block the signal until its handler is set
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid:
        runner.write("runner.json", {"pid": pid})
        os._exit(0)
    runner.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
