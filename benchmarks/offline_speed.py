"""
Gradient updates per second of the offline learners, ours and d3rlpy's.

    python benchmarks/offline_speed.py --peer-python PATH                  # CPU, all algorithms
    python benchmarks/offline_speed.py --peer-python PATH --device cuda    # adds CUDA graphs, d3rlpy's and ours
    python benchmarks/offline_speed.py --peer-python PATH --quick          # smoke run, writes nothing

d3rlpy pins gymnasium==1.0.0 and so lives in an environment of its own, whose python is PATH:

    python -m venv X && X/bin/pip install torch==2.13.0 d3rlpy==2.8.1

A million synthetic rows of HalfCheetah's shape: 17 observation and 6 action dimensions, episodes of 1000 that only time
limits end. Batch 256; hidden layers of 2 x 256 (TD3+BC, IQL, BC) or 3 x 256 (CQL, 10 proposed actions of each kind); BCQ with
400-300, a VAE of 750-750 and 10 candidates in its targets. d3rlpy's only number of candidates, 100 by default, is for targets
and actions alike; here it is 10, for nobody acts. Observations are standardised where our defaults do.

Timed is what a user's training loop does, drawing batches included: our ``learn`` with its logging and callbacks, of d3rlpy
``update`` on ``sample_transition_batch``, which leaves out its ``fit``'s progress bar, logs and checkpoints. Warm-up and
compilation are not timed. The sides take turns, block by block, in processes of their own of which one runs at a time.
Reported are medians over blocks, as milliseconds, and d3rlpy's time over a side's: median and range of the rounds.
Writes ``benchmarks/results/offline_speed_{device}.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

ALGORITHMS = ("TD3BC", "IQL", "CQL", "BCQ", "BC")
STANDARDISED = ("TD3BC", "CQL", "BC")  # our defaults
BATCH, EPISODE, OBSERVATION_DIM, ACTION_DIM = 256, 1000, 17, 6
BLOCK = 20  # our learners draw the batches of as many updates at once

OURS = {"sb3_pgr (default)": {}, "sb3_pgr bf16 compiled": dict(compile=True, precision="bf16")}
ON_CUDA = {
    "sb3_pgr graph": dict(cuda_graph=True),
    "sb3_pgr bf16 compiled graph": dict(cuda_graph=True, compile=True, precision="bf16"),
}
PEER, PEER_GRAPH = "d3rlpy", "d3rlpy compile_graph"
HOW_TO = "python -m venv X && X/bin/pip install torch==2.13.0 d3rlpy==2.8.1, then --peer-python X/bin/python"


def synthetic(rows: int) -> dict[str, np.ndarray]:
    """Arrays with D4RL's names."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.standard_normal((rows, OBSERVATION_DIM), dtype=np.float32),
        "actions": np.tanh(rng.standard_normal((rows, ACTION_DIM), dtype=np.float32)),
        "rewards": rng.standard_normal(rows, dtype=np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(1, rows + 1) % EPISODE == 0,
    }


def our_updates(algorithm: str, device: str, arrays: dict[str, np.ndarray], **kwargs) -> Callable[[int], None]:
    import sb3_pgr

    learner = getattr(sb3_pgr, algorithm)
    model = learner("MlpPolicy", dataset=arrays, batch_size=BATCH, seed=0, device=device, **kwargs)
    return lambda count: model.learn(count, reset_num_timesteps=False)


def peer_updates(algorithm: str, device: str, arrays: dict[str, np.ndarray], graph: bool) -> Callable[[int], None]:
    import d3rlpy
    from d3rlpy.models import VectorEncoderFactory

    def encoders(*names: str, widths: tuple[int, ...] = (256, 256)):
        return {f"{name}_encoder_factory" if name else "encoder_factory": VectorEncoderFactory([*widths]) for name in names}

    config, settings = {
        "TD3BC": (d3rlpy.algos.TD3PlusBCConfig, encoders("actor", "critic")),
        "IQL": (d3rlpy.algos.IQLConfig, encoders("actor", "critic", "value")),
        "CQL": (
            d3rlpy.algos.CQLConfig,
            # A rate of 0 switches the Lagrange multiplier off, as our default does.
            encoders("actor", "critic", widths=(256, 256, 256)) | dict(n_action_samples=10, alpha_learning_rate=0.0),
        ),
        "BCQ": (
            d3rlpy.algos.BCQConfig,
            encoders("actor", "critic", widths=(400, 300))
            | encoders("imitator", widths=(750, 750))
            | dict(n_action_samples=10),
        ),
        "BC": (d3rlpy.algos.BCConfig, encoders("")),
    }[algorithm]
    if algorithm in STANDARDISED:
        mean, std = arrays["observations"].mean(0), arrays["observations"].std(0)
        settings["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler(mean=mean, std=std)
    dataset = d3rlpy.dataset.MDPDataset(**arrays)
    learner = config(batch_size=BATCH, compile_graph=graph, **settings).create(device=f"{device}:0")
    learner.build_with_dataset(dataset)

    def run(count: int) -> None:
        for _ in range(count):
            learner.update(dataset.sample_transition_batch(BATCH))

    return run


def serve(args: argparse.Namespace) -> None:
    """Child process: build and warm up, then time as many updates as each line from the parent says."""
    import torch as th

    algorithm, side = args.serve
    arrays = synthetic(args.rows)
    if side in OURS | ON_CUDA:
        run = our_updates(algorithm, args.device, arrays, **(OURS | ON_CUDA)[side])
    else:
        run = peer_updates(algorithm, args.device, arrays, side == PEER_GRAPH)
    for _ in range(3):
        run(BLOCK)
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run(int(line))
        if args.device == "cuda":
            th.cuda.synchronize()
        print((time.perf_counter() - started) / int(line) * 1e3, flush=True)


class Side:
    """A child process, which begins to warm up, and the milliseconds of an update in each round."""

    def __init__(self, algorithm: str, name: str, args: argparse.Namespace):
        python = args.peer_python if name in (PEER, PEER_GRAPH) else sys.executable
        command = [python, __file__, "--serve", algorithm, name, "--device", args.device, "--rows", str(args.rows)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
        self.algorithm, self.name, self.times, self.seconds = algorithm, name, list[float](), args.seconds
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads
        )

    def wait(self) -> bool:
        """Until it is warm, and choose how many updates a round has; False if it ended instead."""
        while (line := self.process.stdout.readline()).strip() != "ready":  # d3rlpy logs to stdout
            if not line:
                print(f"{self.algorithm}: {self.name} is left out, it did not start; its error is above.", file=sys.stderr)
                return False
        pilot = self.run(BLOCK)
        self.count = max(round(self.seconds * 1e3 / pilot / BLOCK), 1) * BLOCK
        return True

    def run(self, count: int) -> float:
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def measure(self) -> None:
        self.times.append(self.run(self.count))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def start(algorithms: Sequence[str], args: argparse.Namespace) -> dict[str, list[Side]]:
    """All of them warm up at the same time."""
    names = args.sides or [PEER, *OURS, *([PEER_GRAPH, *ON_CUDA] if args.device == "cuda" else [])]
    started = {algorithm: [Side(algorithm, name, args) for name in names] for algorithm in algorithms}
    warm = {algorithm: [side for side in sides if side.wait()] for algorithm, sides in started.items()}
    if any(not sides or sides[0].name != names[0] for sides in warm.values()):
        raise SystemExit(f"There is nothing to compare with: {names[0]} did not start.")
    return warm


def measure(sides: list[Side], args: argparse.Namespace) -> list[dict]:
    for _ in range(args.rounds):
        for side in sides:
            side.measure()
    rows = []
    for side in sides:
        side.close()
        ratios = [peer / own for peer, own in zip(sides[0].times, side.times, strict=True)]  # the first is d3rlpy
        rows.append(
            {
                "algorithm": side.algorithm,
                "side": side.name,
                "ms_per_update": round(statistics.median(side.times), 3),
                "updates_per_second": round(1e3 / statistics.median(side.times), 1),
                "times_d3rlpy": [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))],
                "updates_per_block": side.count,
                "ms_per_update_of_rounds": [round(value, 3) for value in side.times],
            }
        )
    return rows


def peer_versions(python: str | None) -> dict[str, str]:
    names = ("d3rlpy", "torch", "numpy", "gymnasium")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    try:
        found = subprocess.run([python or "", "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(f"--peer-python {python} has no d3rlpy. To make one: {HOW_TO}") from None
    return json.loads(found.stdout)


def main(args: argparse.Namespace) -> None:
    from provenance import RESULTS, provenance

    versions = peer_versions(args.peer_python)
    print("| algorithm | side | ms per update | updates/s | speed against d3rlpy: median [min, max] |")
    print("|---|---|---|---|---|")
    rows = []
    together = [args.algos] if args.warm_together else [[algorithm] for algorithm in args.algos]
    measured = (sides for algorithms in together for sides in start(algorithms, args).values())
    for sides in measured:
        for row in measure(sides, args):
            rows.append(row)
            middle, low, high = row["times_d3rlpy"]
            cells = row["algorithm"], row["side"], row["ms_per_update"], row["updates_per_second"], f"{middle} [{low}, {high}]"
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if args.quick:
        print("A quick run measures nothing worth keeping; no file written.")
        return
    settings = {name: getattr(args, name) for name in ("device", "threads", "rounds", "rows", "seconds")} | {"batch": BATCH}
    result = {"provenance": provenance((0,)) | {"peer_versions": versions}, "settings": settings, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"offline_speed_{args.device}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python that has d3rlpy")
    parser.add_argument("--algos", nargs="+", default=ALGORITHMS, choices=ALGORITHMS)
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=[PEER, PEER_GRAPH, *OURS, *ON_CUDA],
        help="those to compare, with the first (default: all)",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--rounds", type=int, default=3, help="timed blocks of each side")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a timed block, about")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--warm-together", action="store_true", help="all algorithms at once, if there is memory")
    parser.add_argument("--quick", action="store_true", help="20 000 rows, one short round")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.rounds, arguments.seconds = 20_000, 1, 0.5
    if arguments.serve:
        serve(arguments)
    else:
        main(arguments)
