"""Records with another baseline: a running mean, and hits by standard deviations.

No context has this plugin; register it beside `PulseProcessing`, whose data types are others.
"""

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax.processing import running_baseline
from amstrax.strax_ext.plugin import Plugin

__all__ = ["PulseProcessingAltBaseline"]


@strax.takes_config(
    strax.Option(
        "alt_baseline_samples",
        default=25,
        help="Samples in the running mean of the baseline; a pulse starts with as many without "
        "signal",
    ),
    strax.Option(
        "alt_hit_threshold",
        default=5.0,
        help="Threshold of hits, and of what is left out of the running mean [standard deviations "
        "of the baseline]",
    ),
    strax.Option(
        "save_outside_hits",
        default=(3, 20),
        help="Samples to keep before and behind each hit",
    ),
)
class PulseProcessingAltBaseline(Plugin):
    """Turn the TPC's raw records into records, with a running mean for the baseline.

    1. Blank what lies beyond the length of each fragment
    2. Subtract the running mean of samples without signal, and turn pulses over
    3. Find hits: samples over the baseline by some standard deviations of it
    4. Blank what is in no hit, and integrate
    """

    __version__ = "0.1.0"
    depends_on = ("raw_records",)
    provides = ("records_alt_bl", "hits_alt_bl")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    parallel = "process"
    compressor = "zstd"
    rechunk_on_save = immutabledict(records_alt_bl=False, hits_alt_bl=True)
    save_when = immutabledict(
        records_alt_bl=strax.SaveWhen.TARGET, hits_alt_bl=strax.SaveWhen.TARGET
    )

    def infer_dtype(self):
        raw_records = self.deps["raw_records"].dtype_for("raw_records")
        return dict(
            records_alt_bl=strax.record_dtype(strax.record_length_from_dtype(raw_records)),
            hits_alt_bl=strax.hit_dtype,
        )

    def compute(self, raw_records):
        records, hits = self.records_and_hits(raw_records)
        return dict(records_alt_bl=records, hits_alt_bl=hits)

    def records_and_hits(self, raw_records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records, blanked outside hits, and the hits."""
        threshold = self.config["alt_hit_threshold"]
        records = running_baseline.subtract_running_mean(
            raw_records, self.config["alt_baseline_samples"], threshold
        )
        hits = running_baseline.keep_hits(records, threshold, *self.config["save_outside_hits"])
        return records, hits
