"""Analyses on a context, ``st.NAME(run_id, ...)``: each loads what it draws, and returns a figure.

`amstrax.strax_ext.context` has the names, and binds them; `amstrax.analyses.mini_analysis` what
they share.
"""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
