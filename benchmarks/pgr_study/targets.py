"""
How far generated rows mislead the critics: their targets against those of the same states and actions in the real simulator.

    python benchmarks/pgr_study/targets.py unseen    # ten seconds a run: the last checkpoint that each left

Checkpoints are under ``build/``; tasks are those whose observation determines the state, generated rows those of which it does
so (Hopper-v5 and Walker2d-v5 cut velocities at 10). Results are
``benchmarks/results/pgr_study/<study>/targets.json``; runs whose checkpoints are gone keep their rows.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from provenance import RESULTS, provenance  # noqa: E402
from sb3_pgr.envs.simulator import SimulatorProbe, determines_state  # noqa: E402
from study import checkpoints, load, new_model  # noqa: E402

from sb3_pgr.common.checkpoint import latest_checkpoint, load_checkpoint  # noqa: E402

ROWS, EPISODES = 6_000, 10
PARTS = "observations", "actions", "rewards", "next_observations", "dones"
Rows = dict[str, th.Tensor]


class Simulator(gym.Wrapper):
    """The task, to play in, and to take single steps from given states, ends of episodes included."""

    def __init__(self, task: str):
        super().__init__(gym.make(task))
        self.ends: list[bool] = []
        self.probe = SimulatorProbe(self)

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.ends.append(bool(result[2]))
        return result

    def outcome(self, rows: Rows) -> Rows:
        """The same states and actions with what they lead to."""
        self.ends.clear()
        next_obs, rewards = self.probe.step(rows["observations"].numpy(), rows["actions"].numpy())
        outcome = zip(PARTS[2:], (rewards, next_obs, self.ends), strict=True)
        return rows | {name: th.as_tensor(np.array(part, np.float32)) for name, part in outcome}

    def play(self, model: Any) -> Rows:
        """Episodes of the stochastic policy: where it goes now."""
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        rows: list[tuple[Any, ...]] = []
        for episode in range(EPISODES):
            obs, _ = self.reset(seed=30_000 + episode)
            terminated = truncated = False
            while not (terminated or truncated):
                action, _ = model.predict(obs)
                next_obs, reward, terminated, truncated, _ = self.step(action)
                rows.append((obs, model.policy.scale_action(action), reward, next_obs, terminated))
                obs = next_obs
        columns = zip(PARTS, zip(*rows, strict=True), strict=True)
        return {name: th.as_tensor(np.array(column, np.float32)) for name, column in columns}


@th.no_grad()
def values_and_targets(model: Any, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of each row, the mean of the critics ``(n,)`` and what they learn from it ``(n,)``; next actions are always the same."""
    th.manual_seed(0)
    next_actions, log_prob = model.actor.action_log_prob(rows["next_observations"])
    following = model.critic_target.q_values(rows["next_observations"], next_actions).amin(0)
    following -= model.log_ent_coef.exp() * log_prob
    target = rows["rewards"].flatten() + (1 - rows["dones"].flatten()) * model.gamma * following
    return model.critic.q_values(rows["observations"], rows["actions"]).mean(0).numpy(), target.numpy()


def known_shares(model: Any, probe: SimulatorProbe) -> dict[str, float]:
    """Shares whose observation tells the state: of the real rows, and of the quarter that generated ones are to be like."""
    real = model.replay_buffer.real_transitions()
    known = probe.known(real["observations"].numpy())
    relevance = model.replay_buffer.relevance.values(real).flatten()
    asked_for = (relevance >= relevance.quantile(1 - model.cond_top_frac)).numpy()
    return {"real_known": known.mean(), "relevant_known": known[asked_for].mean()}


@th.no_grad()
def measure(study: dict[str, Any], task: str, arm: str, seed: int, checkpoint: Path) -> dict[str, float]:
    model = new_model(study, task, arm, seed, "cpu")
    load_checkpoint(model, checkpoint)
    simulator, replay = Simulator(task), model.replay_buffer
    generated = replay.sources["synthetic"]
    random = th.Generator().manual_seed(0)

    def some(rows: Rows) -> Rows:
        chosen = th.randint(len(rows["rewards"]), (ROWS,), generator=random)
        return {name: rows[name][chosen].float() for name in PARTS}

    found: dict[str, float] = {"ent_coef": model.log_ent_coef.exp().item()}
    for name, rows in (("real", some(replay.real_transitions())), ("new", simulator.play(model))):
        values, target = values_and_targets(model, rows)
        found |= {f"{name}_value": values.mean(), f"{name}_value_above_target": (values - target).mean()}
        found[f"{name}_entropy"] = -model.actor.action_log_prob(rows["observations"])[1].mean()
    if generated.size() > 0:
        found |= known_shares(model, simulator.probe)
        rows = some(generated.rows(th.arange(generated.size()))._asdict())
        known = th.as_tensor(simulator.probe.known(rows["observations"].numpy()))
        rows = {name: part[known] for name, part in rows.items()}
        _, target = values_and_targets(model, rows)
        outcome = simulator.outcome(rows)
        error = target - values_and_targets(model, outcome)[1]
        drawn, true = rows["dones"].flatten().numpy() > 0, outcome["dones"].flatten().numpy() > 0
        parts = {"missed_ends": true & ~drawn, "false_ends": drawn & ~true, "other_rows": true == drawn}
        found |= {"generated_known": known.float().mean(), "generated_target": target.mean()}
        found |= {"generated_error": error.mean(), "generated_error_abs": np.abs(error).mean()}
        found |= {f"error_of_{name}": error[part].sum() / len(error) for name, part in parts.items()}
    return {"timesteps": model.num_timesteps} | {name: round(float(value), 3) for name, value in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(path.stem for path in HERE.glob("*.yml")))
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name holds it, say 'Walker2d-v5 default 0'")
    args = parser.parse_args()
    study = load(args.study)
    path = RESULTS / "pgr_study" / study["name"] / "targets.json"
    found = json.loads(path.read_text())["runs"] if path.exists() else {}
    for task in study["tasks"]:
        for arm in study["arms"]:
            for seed in study["seeds"]:
                run, checkpoint = f"{task} {arm} {seed}", latest_checkpoint(checkpoints(study, task, arm, seed))
                if checkpoint is None or args.only not in run or not determines_state(gym.spec(task)):
                    continue
                found[run] = measure(study, task, arm, seed, checkpoint)
                print(run, found[run], flush=True)
                path.write_text(json.dumps({"provenance": provenance(), "runs": found}, indent=2) + "\n")
