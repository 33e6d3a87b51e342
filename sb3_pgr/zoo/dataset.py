"""``dataset``: what is in a dataset, whether it is sound, the same in another format, several in one."""

import argparse
from pathlib import Path

from sb3_pgr.offline.dataset import DatasetError, OfflineDataset, concatenate
from sb3_pgr.offline.description import draw, problems, summary
from sb3_pgr.offline.minari_format import save_minari
from sb3_pgr.offline.readers import load_dataset, save_npz
from sb3_pgr.zoo.arguments import import_gym_packages
from sb3_pgr.zoo.errors import UsageError


def main() -> None:
    """Run one of the verbs."""
    parser = argparse.ArgumentParser(prog="sb3-pgr dataset", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (
        ("info", "print what is in it and draw it"),
        ("check", "print what is wrong with it; exit with 1 if something is"),
        ("convert", "write it as npz, or as a local Minari dataset"),
    ):
        sub = verbs.add_parser(verb, help=what)
        if verb == "check":
            sub.add_argument("sources", nargs="+", metavar="source", help="npz or HDF5 files, Minari ids or folders")
            continue
        sub.add_argument("source", help="npz or HDF5 file, Minari id or folder")
        if verb == "info":
            sub.add_argument("-o", "--output", type=Path, help="the picture (default: <name>.png beside the file)")
        if verb == "convert":
            sub.add_argument("target", help="path ending in .npz, or an id like name/kind-v0 for Minari")
            sub.add_argument(
                "--gym-packages", nargs="+", default=[], help="packages that register the environment, which Minari asks for"
            )
    mix = verbs.add_parser("mix", help="join datasets, or a number of rows of each, drawn by whole episodes")
    mix.add_argument("target", type=Path, help="the npz file to write")
    mix.add_argument("sources", nargs="+", metavar="FILE[:ROWS]", help="datasets to join")
    mix.add_argument("--seed", type=int, default=0, help="of the episodes drawn")
    args = parser.parse_args()
    import_gym_packages(getattr(args, "gym_packages", []))
    try:
        if args.verb == "mix":
            _mix(args.target, args.sources, args.seed)
        elif args.verb == "check":
            _check(args.sources)
        elif args.verb == "info":
            _info(load_dataset(args.source), args.output or _beside(args.source))
        else:
            _convert(load_dataset(args.source), args.target)
    except DatasetError as error:
        raise UsageError(str(error)) from None


def _beside(source: str) -> Path:
    path = Path(source)
    return path.with_suffix(".png") if path.is_file() else Path(f"{source.replace('/', '-')}.png")


def _info(dataset: OfflineDataset, picture: Path) -> None:
    for name, text in summary(dataset).items():
        print(f"{name:16}{text}")
    for problem in problems(dataset):
        print(f"note            {problem}")
    draw(dataset, picture)
    print(f"picture         {picture}")


def _check(sources: list[str]) -> None:
    sound = True
    for source in sources:
        try:
            dataset = load_dataset(source)
        except DatasetError as error:
            found = [str(error)]
        else:
            found = [f"{source}: {problem}" for problem in problems(dataset)]
        for problem in found:
            print(problem)
        if not found:
            print(f"{source}: {len(dataset):,} rows, nothing to complain about.")
        sound &= not found
    if not sound:
        raise SystemExit(1)


def _convert(dataset: OfflineDataset, target: str) -> None:
    if target.endswith(".npz"):
        save_npz(dataset, target)
    elif Path(target).suffix:
        raise UsageError(f"{target}: only .npz files and Minari datasets (an id like name/kind-v0) are written.")
    else:
        try:
            save_minari(dataset, target)
        except ModuleNotFoundError:
            raise UsageError("Writing Minari datasets needs Minari: pip install 'sb3_pgr[offline]'") from None
        except (ValueError, TypeError) as error:  # the latter of an id without a version
            raise UsageError(f"Minari refuses {target}: {error}") from None
    print(f"{len(dataset):,} rows: {target}")


def _mix(target: Path, sources: list[str], seed: int) -> None:
    if target.suffix != ".npz":
        raise UsageError(f"{target}: only .npz files are written.")
    if target.exists():
        raise UsageError(f"{target} exists; the first name is the file to write, the others are what is mixed.")
    parts, shares = [], []
    for source in sources:
        name, _, rows = source.rpartition(":")
        if name.endswith(".npz") and not rows.isdigit():
            raise UsageError(f"{source}: after the colon stands a number of rows.")
        name, wanted = (name, int(rows)) if name and rows.isdigit() else (source, None)
        part = load_dataset(name)
        if wanted is not None and not 0 < wanted <= len(part):
            raise UsageError(f"{name} has {len(part):,} rows, not {wanted:,}: at least one is taken, at most all.")
        parts.append(part if wanted is None else part.sample_episodes(wanted, seed))
        shares.append(f"{len(parts[-1]):,} rows of {name}")
    mixture = concatenate(parts, str(target))
    save_npz(mixture, target)
    print(f"{len(mixture):,} rows ({', '.join(shares)}): {target}")
