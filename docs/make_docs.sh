#!/usr/bin/env bash
# Build these pages into docs/build/html. Warnings, errors in notebooks, and links to nowhere are errors.
# Needs neither network nor data; notebooks leave theirs in source/tutorials. Arguments are passed to Sphinx.
# Runs with the Python of .venv; name another: PYTHON=python3 bash docs/make_docs.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# Relative names count from here, so make an absolute one of the interpreter's
python=$(cd .. && command -v "${PYTHON:-.venv/bin/python}") || {
    echo "make_docs.sh: there is no ${PYTHON:-.venv/bin/python}: run 'make docs', which sets it up" >&2
    exit 1
}
case $python in /*) ;; *) python=$PWD/../$python ;; esac

# Pages of modules that are gone would stay, and be warned of
rm -rf source/reference
# Output of notebooks is made anew; without these lines pages that are gone would stay
rm -rf build/html
# -E: read every page again, since pages that are read from a cache give no warnings
"$python" -m sphinx -q -E -W --keep-going -j 2 -b html -d build/doctrees "$@" source build/html
"$python" check_html.py build/html
echo "docs/build/html/index.html"
