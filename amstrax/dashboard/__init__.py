"""Web page of runs, their data and their processing: a Bokeh server (extra ``dashboard``).

Each page is a class with an instance for each browser tab; slow work runs in threads.
"""

from amstrax import attributes_of

__getattr__ = attributes_of(__name__)
