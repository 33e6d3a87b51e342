"""``report``: one HTML page about many runs, with its pictures and tables as files beside it."""

import argparse
from pathlib import Path

from sb3_pgr.report import NoRunsError, build_report
from sb3_pgr.zoo.errors import UsageError


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="sb3-pgr report", description=__doc__)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="what `sb3-pgr benchmark` wrote, or logs of `sb3-pgr train`"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the page (default: report.html)")
    parser.add_argument("--title", help="heading of the page (default: names of the folders)")
    parser.add_argument(
        "--embed-mb", type=float, default=50, help="videos and diagnostics that go into the page, in MB (default: 50)"
    )
    parser.add_argument(
        "--dataset-mb", type=float, default=500, help="dataset files that are read for the page, in MB (default: 500)"
    )
    args = parser.parse_args()
    if args.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o names the page, a file that ends in .html, not {args.output}.")
    if not all(0 <= size < float("inf") for size in (args.embed_mb, args.dataset_mb)):
        raise UsageError("--embed-mb and --dataset-mb must be 0 or more.")
    try:
        report = build_report(args.folders, args.output, args.title, int(args.embed_mb * 2**20), int(args.dataset_mb * 2**20))
    except NoRunsError as error:
        raise UsageError(str(error)) from None
    print(f"{report.n_runs} runs: {report.page}; pictures and tables: {report.files}")
    if report.n_incomplete:
        print(f"{report.n_incomplete} of them are incomplete, broken or without evaluations; the page says which.")
    if report.left_out:
        print(f"{len(report.left_out)} videos and pictures are left out of the page, which lists them; --embed-mb makes room.")
