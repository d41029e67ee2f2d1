"""How Sphinx builds these pages: `make docs`."""

import dataclasses
import importlib
import logging
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

# Pages are the same on every machine, whatever is set there; before amstrax is imported
os.environ["AMSTRAX_CONFIG"] = os.devnull
for _name in [name for name in os.environ if name.startswith(("XAMS_", "XAMSL_"))]:
    del os.environ[_name]
SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parent / "build"

# utilix, which straxen imports, asks for the settings of XENON, which nothing here reads
logging.getLogger("utilix").addFilter(
    lambda record: "Could not load a configuration file" not in record.getMessage()
)
# nbclient tells at level INFO that it begins with a notebook
logging.getLogger("traitlets").setLevel(logging.WARNING)
# ipykernel warns that others on this machine could listen to a kernel; these run our notebooks.
# A kernel reads this file before it says so; that of the user would change what notebooks show.
_profile = BUILD / "ipython/profile_default"
_profile.mkdir(parents=True, exist_ok=True)
(_profile / "ipython_kernel_config.py").write_text(
    """import logging

logging.getLogger("IPKernelApp").addFilter(
    lambda record: "TCP without encryption" not in record.getMessage()
)
""",
    encoding="utf-8",
)
os.environ["IPYTHONDIR"] = str(_profile.parent)

sys.path[:0] = [str(SOURCE), str(SOURCE.parents[1])]

import build_data_structure_doc  # noqa: E402
import import_graph  # noqa: E402
import make_position_table  # noqa: E402
import make_pulse_pictures  # noqa: E402
import make_simulation_comparison  # noqa: E402
import numba  # noqa: E402

import amstrax  # noqa: E402

project = "amstrax"
author = "the XAMS collaboration"
copyright = author
release = "3.0.0"
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
]
# What notebooks leave
exclude_patterns = ["tutorials/*_data", "tutorials/amstrax_demo", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
# `name` in a docstring is a name of Python: a link if it is one of amstrax, code if not
default_role = "py:obj"
highlight_language = "python"
language = "en"

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# A parameter a line where all do not fit into one
maximum_signature_line_length = 80
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Without this, every compute and infer_dtype would show the text of strax's base class
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_rtype = False

# Each notebook is executed at each build, and an error in it is one of the build
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# Log lines and progress bars; what a cell prints is shown
nb_output_stderr = "remove"
nb_merge_streams = True
# Text in cells of notebooks: as on these pages, two dashes are two dashes
myst_enable_extensions = ["dollarmath"]
# HISTORY.md begins with headings of the second level, below the title of its page
# Bokeh says what it shows in two ways; one of them is for Jupyter alone
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = f"amstrax {release}"
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["amstrax.css"]
html_theme_options = {"navigation_with_keys": True}
# Sources of pages are in the repository; a copy beside the pages would be one more to search
html_copy_source = False


def show_plain_functions():
    """Put plain Python functions in the place of compiled ones, so that autodoc sees functions.

    Those with a signature of their own are cut off from the function behind them: with
    autodoc_preserve_defaults, Sphinx would look for their defaults there.
    """
    for found in pkgutil.walk_packages(amstrax.__path__, "amstrax."):
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            if isinstance(value, numba.core.dispatcher.Dispatcher):
                setattr(module, name, value.py_func)
            elif hasattr(value, "__wrapped__") and hasattr(value, "__signature__"):
                del value.__wrapped__


def write_pages(app):
    """Write the pages that are made of the code, and of what the benchmarks have shown."""
    build_data_structure_doc.write(SOURCE)
    import_graph.write(SOURCE, Path(amstrax.__file__).parent)
    results = SOURCE.parents[1] / "benchmarks/RESULTS.md"
    text = "Nothing is written down yet.\n"
    if results.exists():
        text = results.read_text(encoding="utf-8")
    # Its title is that of the section there
    (SOURCE / "results.inc").write_text(re.sub(r"\A# .*\n", "", text), encoding="utf-8")
    make_position_table.write()
    make_pulse_pictures.write()
    make_simulation_comparison.write()
    show_plain_functions()
    if app.config.nb_execution_mode != "off":
        make_demo()


def make_demo():
    """Make the run that notebooks share: they are executed at the same time."""
    command = [sys.executable, "-m", "amstrax.commands.demo", "--no-progress"]
    arguments = ["--output", str(SOURCE / "tutorials/amstrax_demo"), "--duration", "20"]
    done = subprocess.run(command + arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"amstrax demo, for notebooks, failed: {done.stderr[-2000:]}")


def skip_member(app, what, name, value, skip, options):
    """Leave out fields of named tuples ("Alias for field number 0"), and what is straxen's."""
    is_field = type(value).__name__ == "_tuplegetter"
    is_of_straxen = (getattr(value, "__module__", None) or "").startswith("straxen.")
    return True if is_field or is_of_straxen else None


def shorten_signature(app, what, name, value, options, signature, return_annotation):
    """Leave the list of fields out of the signature of a large dataclass; it follows anyway."""
    if what == "class" and dataclasses.is_dataclass(value) and len(dataclasses.fields(value)) > 12:
        return "(...)", None
    return None


def setup(app):
    """Called by Sphinx."""
    # Before autosummary looks which pages there are
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-signature", shorten_signature)
