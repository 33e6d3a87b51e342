"""
What relevance functions ask for where observations hide velocities: all of them on the same real rows, as these came.

    python benchmarks/pgr_study/asked_for.py    # two minutes a run: rows of the last checkpoint that each left

Of Walker2d-v5, whose observation cuts velocities at 10: the share of rows with a cut velocity, among all and among the most
relevant quarter. Trained relevance learns from rows drawn among those there were at the time, as beside an agent. Results are
``benchmarks/results/pgr_study/unseen/asked_for.json``.
"""

import json
import sys
from pathlib import Path

import gymnasium as gym
import torch as th

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from provenance import RESULTS, provenance  # noqa: E402
from sb3_pgr.envs.simulator import SimulatorProbe  # noqa: E402
from study import checkpoints, load, new_model  # noqa: E402

from sb3_pgr.common.checkpoint import latest_checkpoint, load_checkpoint  # noqa: E402
from sb3_pgr.generative.relevance import Transitions, make_relevance  # noqa: E402

TASK, ARM, TOP = "Walker2d-v5", "default", 0.25
NAMES = "curiosity", "disagreement", "rnd", "novelty"


def share(name: str, real: Transitions, cut: th.Tensor, learning_starts: int) -> float:
    """Of rows with a cut velocity among the most relevant."""
    th.manual_seed(0)
    relevance = make_relevance(name)
    relevance.setup(real["observations"].shape[1], real["actions"].shape[1], 0, th.device("cpu"))
    if relevance.update_every:
        for so_far in range(learning_starts, len(cut), relevance.update_every):
            rows = th.randint(so_far, (relevance.batch_size,))
            relevance.update({part: values[rows] for part, values in real.items()})
    relevance.observe(real)
    values = relevance.values(real).flatten()
    return cut[values >= values.quantile(1 - TOP)].float().mean().item()


if __name__ == "__main__":
    study, found = load("unseen"), {}
    probe = SimulatorProbe(gym.make(TASK))
    for seed in study["seeds"]:
        checkpoint = latest_checkpoint(checkpoints(study, TASK, ARM, seed))
        if checkpoint is None:
            continue
        model = new_model(study, TASK, ARM, seed, "cpu")
        load_checkpoint(model, checkpoint)
        real = {name: rows.float() for name, rows in model.replay_buffer.real_transitions().items()}
        cut = ~th.as_tensor(probe.known(real["observations"].numpy()))
        shares = {name: share(name, real, cut, model.learning_starts) for name in NAMES}
        run = f"{TASK} {ARM} {seed}"
        found[run] = {name: round(value, 3) for name, value in ({"all rows": cut.float().mean().item()} | shares).items()}
        print(run, found[run], flush=True)
    if not found:
        sys.exit(f"No run of {TASK} has left a checkpoint: python benchmarks/pgr_study/study.py unseen --run {TASK} {ARM} 0")
    path = RESULTS / "pgr_study" / "unseen" / "asked_for.json"
    path.write_text(json.dumps({"provenance": provenance(study["seeds"]), "runs": found}, indent=2) + "\n")
