"""Batch systems that run jobs: `get` returns one by its name, `base.Engine` is their interface."""

from amstrax import attributes_of
from amstrax.auto_processing.engines.base import ENGINES, Engine, Job, JobState, get

__all__ = ["ENGINES", "Engine", "Job", "JobState", "base", "get", "htcondor", "local", "slurm"]

__getattr__ = attributes_of(__name__)
