"""The benchmarks: one short script per question, each run by `python -m fusegrad bench [name]`.

Every result is held to float64 before it is timed. All providers of a case take turns in one process, so that what
the machine does meanwhile happens to all of them.
"""

from .run import NAMES, main

__all__ = ["NAMES", "main"]
