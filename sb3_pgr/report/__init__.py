"""A page about many runs: numbers, curves, comparisons, videos, datasets, generators, configurations."""

from sb3_pgr.report.build import Report, build_report
from sb3_pgr.report.folders import NoRunsError

__all__ = ["NoRunsError", "Report", "build_report"]
