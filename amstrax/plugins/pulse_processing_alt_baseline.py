"""Records with a running-mean baseline, and hits by standard deviations.

No context has this plugin; register it in addition to `PulseProcessing`.
"""

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
        "save_outside_hits", default=(3, 20), help="Samples to keep before and behind each hit"
    ),
)
class PulseProcessingAltBaseline(Plugin):
    """Turn the TPC's raw records into records, with a running mean as baseline.

    1. Blank samples beyond the length of each fragment
    2. Subtract the running mean of samples without signal, and invert pulses
    3. Find hits above a number of standard deviations of the baseline
    4. Blank samples outside hits, and integrate
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
        threshold = self.config["alt_hit_threshold"]
        records = running_baseline.subtract_running_mean(
            raw_records, self.config["alt_baseline_samples"], threshold
        )
        hits = running_baseline.keep_hits(records, threshold, *self.config["save_outside_hits"])
        return dict(records_alt_bl=records, hits_alt_bl=hits)
