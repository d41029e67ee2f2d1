"""The lab in a browser: runs, their data, and their processing; `command` starts it.

A Bokeh server (extra ``dashboard``) whose pages show what the run database, the analyses and the
engines say. Each page is a class with one instance for each browser tab that shows it; what takes
time is done in threads (`page.Page.load`), and comes back to the page between two events.
"""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
