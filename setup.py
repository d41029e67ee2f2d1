"""Packaging of amstrax: all metadata lives here, tool settings in pyproject.toml.

The bounds below are for everyone who installs the package with pip. The exact versions
that developers and CI use are those of constraints.txt (see there, and `make install`).
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read(name):
    """Return the text of a file beside this one, or nothing when it is not there (yet)."""
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# The upper bound is the next major release; the next minor one where minor releases are known
# to remove things (numba), or where what amstrax computes follows them (strax, straxen, nestpy).
install_requires = [
    "strax>=2.2.3,<2.3",
    "straxen>=4.1,<4.2",
    "numpy>=2.0,<3",
    "numba>=0.61,<0.69",
    "pandas>=2.2.2,<3",
    "pymongo>=4.10,<5",
    # published corrections; what it waits for and tries again is set with urllib3
    "requests>=2.32,<3",
    "urllib3>=2,<3",
    # the SSH tunnel to the run database, and its sessions
    "sshtunnel>=0.5.1,<0.6",
    "paramiko>=4,<6",
    # certificates of host keys; paramiko depends on it
    "cryptography>=42",
    "immutabledict>=4.2,<5",
    # fits of LED spectra and of positions in SiPMs
    "iminuit>=2.30,<3",
    "matplotlib>=3.9,<4",
    "tqdm>=4.67.1,<5",
    "lz4>=4.3.3,<5",
    "blosc>=1.11.2,<2",
    "psutil>=6,<8",
    # needed by strax; newer ones have no wheel for this platform, and would need a compiler
    "zstd<1.5.6.5; sys_platform == 'linux' and python_version >= '3.12'",
]

extras_require = {
    # light and charge yields for the detector model
    "simulation": ["nestpy>=2.1.1,<2.2"],
    # straxen holds pydantic below 2 and param below 2, so no Panel or HoloViews here
    "dashboard": [
        "bokeh>=3.9,<4",
        # hashes of passwords of those who may log in
        "bcrypt>=4,<6",
    ],
    # files of `amstrax export`; CSV is written by pandas
    "export": [
        "h5py>=3.12,<4",
        "pyarrow>=18,<27",
        "uproot>=5.6,<6",
    ],
    # the kernel; JupyterLab needs a newer httpx than xeauth, of straxen, allows (`make notebook`)
    "notebook": [
        "ipykernel>=6.29,<8",
        # progress bars of strax, which fail in Jupyter without it
        "ipywidgets>=8.1,<9",
    ],
    # HTCondor's own bindings (htcondor2), for the engine of that name
    "htcondor": ["htcondor>=25.0,<26"],
    "docs": [
        "sphinx>=9.0,<10",
        # the theme: side bar, search, dark and narrow screens, and nothing from elsewhere
        "furo>=2025.12.19,<2027",
        # executes notebooks, and reads the Markdown of HISTORY.md and benchmarks/
        "myst-nb>=1.4,<2",
        "myst-parser>=5,<6",
        # where the boxes and lines of a dependency graph go, without Graphviz's programs
        "grandalf>=0.8,<0.9",
    ],
    "test": [
        "pytest>=8.4,<10",
        "pytest-xdist>=3.6.1,<4",
        "pytest-timeout>=2.3.1,<3",
        "hypothesis>=6.112,<7",
        # drives the browser in which the dashboard is tested; brings its own driver, but no browser
        "playwright>=1.60,<2",
        # rules of accessibility (axe-core) for its pages
        "axe-playwright-python>=0.1.8,<0.2",
        # an SMTP server, for alarms
        "aiosmtpd>=1.4.6,<2",
        # what the dashboard is made of
        "bokeh>=3.9,<4",
        # as of the extra "export"
        "h5py>=3.12,<4",
        "pyarrow>=18,<27",
        "uproot>=5.6,<6",
        # a MongoDB server for tests, GPL-2.0; a pre-release, which pip takes only when it is pinned
        "SecantusDB==0.7.0b3",
        # an SSH server with passwords for tests
        "asyncssh>=2.21,<3",
        # as of the extra "htcondor"; for Linux alone
        "htcondor>=25.0,<26; sys_platform == 'linux'",
        # schemas of GitHub's workflows and of CITATION.cff
        "check-jsonschema>=0.39,<0.40",
        "ruff>=0.17,<0.18",
        "mypy>=2.3,<3",
    ],
}
# everything above, and what `make dist` needs
extras_require["dev"] = [
    "build>=1.2,<2",
    *sorted({requirement for extra in extras_require.values() for requirement in extra}),
]

setup(
    name="amstrax",
    version="3.0.0",
    description="Processing of XAMS and XAMSL data with strax",
    long_description="\n\n".join(filter(None, (read("README.md"), read("HISTORY.md")))),
    long_description_content_type="text/markdown",
    author="The XAMS collaboration",
    url="https://github.com/XAMS-nikhef/amstrax",
    project_urls={
        "Documentation": "https://amstrax.readthedocs.io",
        "Source": "https://github.com/XAMS-nikhef/amstrax",
        "Issues": "https://github.com/XAMS-nikhef/amstrax/issues",
        "Changelog": "https://github.com/XAMS-nikhef/amstrax/blob/master/HISTORY.md",
    },
    license_expression="BSD-3-Clause",
    license_files=["LICENSE"],
    # With this, an editable install adds this folder to sys.path. Its import hook would come after
    # the path: above a clone called amstrax, Python would import the folder of the clone.
    package_dir={"": "."},
    packages=find_packages(include=["amstrax", "amstrax.*"]),
    package_data={
        "amstrax.dashboard": ["templates/*"],
        "amstrax.simulation": ["light_maps/*"],
    },
    python_requires=">=3.11,<3.13",
    install_requires=install_requires,
    extras_require=extras_require,
    entry_points={
        "console_scripts": [
            "amstrax = amstrax.cli:main",
            "amstraxer = amstrax.auto_processing.amstraxer:main",
            "process_run = amstrax.auto_processing.process_run:main",
            "submit_stbc = amstrax.auto_processing.submit_stbc:main",
            "auto_processing = amstrax.auto_processing.auto_processing:main",
            "copy_live = amstrax.auto_processing.copy_live:main",
            "delete_live = amstrax.auto_processing.delete_live:main",
        ],
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Physics",
    ],
    zip_safe=False,
)
