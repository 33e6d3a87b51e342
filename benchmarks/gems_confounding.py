"""
Why values learned from a privileged logging policy mislead: what they foretell of an action, and what the action earns.

    sb3-pgr gems build --env gems/focused_topdown-v0
    python benchmarks/gems_confounding.py

A network learns from a dataset, by regression alone, the clicks that a latent action brings at a belief. Of a hundred actions
of the dataset it then chooses the one from which it expects most, for each of 1 000 users that it has not seen, after 5, 15
and 25 slates of the dataset's behaviour. The users are shown that, and one action at random. Where actions are chosen by what
the belief knows, or by chance, such a network is right up to its own optimism. The logging policy knows more: it shows each
user what that user likes, so in its data a slate of one topic is well received; by others it is not.

Three seeds of the network, each with users of its own. Writes ``benchmarks/results/gems_confounding.json``.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from provenance import RESULTS, provenance
from sb3_pgr.envs.gems.datasets import Act, record
from sb3_pgr.envs.gems.policies import EpsilonGreedyOracle, SlatePolicy
from sb3_pgr.envs.gems.users import Users, make_users

SEEDS = (0, 1, 2)
N_USERS, UNSEEN, FIRST_USER, FIRST_UNSEEN = 1_000, 1_000, 3 * 10**12, 5 * 10**12
STEPS, BATCH, HELD = 3_000, 256, 0.1
ASKED_AT, CANDIDATES = (5, 15, 25), 100


class Foretold:
    """Clicks that actions bring, by regression on a dataset."""

    def __init__(self, rows: dict[str, np.ndarray], seed: int):
        th.manual_seed(seed)
        beliefs, actions, clicks = (th.as_tensor(rows[name]) for name in ("observations", "actions", "rewards"))
        self.mean, self.std = actions.mean(0), actions.std(0)
        sizes = (beliefs.shape[1] + actions.shape[1], 256, 256, 1)
        layers = [part for pair in pairwise(sizes) for part in (th.nn.Linear(*pair), th.nn.ReLU())]
        self.network = th.nn.Sequential(*layers[:-1])
        optimizer = th.optim.Adam(self.network.parameters(), 1e-3)
        n = int(len(beliefs) * (1 - HELD))
        for _ in range(STEPS):
            index = th.randint(n, (BATCH,))
            loss = (self._clicks(beliefs[index], actions[index]) - clicks[index]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors = self(beliefs[n:], actions[n:]) - clicks[n:]
        self.explained = float(1 - errors.pow(2).mean() / clicks[n:].var())

    def _clicks(self, beliefs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.network(th.cat([beliefs, (actions - self.mean) / self.std], -1)).squeeze(-1)

    @th.no_grad()
    def __call__(self, beliefs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self._clicks(beliefs, actions)


def compared(users: Users, act: Act | None, show: SlatePolicy | None, seed: int) -> dict[str, float]:
    """Mean clicks on a slate: foretold and earned, of the best candidates and of random ones."""
    rows = record(users, act, show, FIRST_USER + seed * N_USERS, N_USERS)
    foretold, actions = Foretold(rows, seed), th.as_tensor(rows["actions"])
    engine, found = users.engine, []
    obs = users.reset(np.arange(UNSEEN) + FIRST_UNSEEN + seed * UNSEEN, 0)
    for step in range(max(ASKED_AT) + 1):
        if step in ASKED_AT:
            candidates = actions[th.randint(len(actions), (UNSEEN, CANDIDATES))]
            beliefs = th.as_tensor(np.asarray(obs))[:, None].expand(-1, CANDIDATES, -1)
            values = foretold(beliefs, candidates)
            before = engine.get_state()
            for chosen in (values.argmax(1), th.zeros(UNSEEN, dtype=th.long)):
                picked = candidates[th.arange(UNSEEN), chosen].numpy()
                earned = engine.step(np.asarray(users.actions.to_slates(picked))).clicks.sum(1).mean()
                engine.set_state(before)
                found.append((float(values[th.arange(UNSEEN), chosen].mean()), float(earned)))
        obs = users.step(act(obs))[0] if act is not None else users.show(show(engine))[0]  # type: ignore[misc]
    best, chance = (np.mean(found[i::2], 0).round(2) for i in (0, 1))
    return {
        "explained_variance": round(foretold.explained, 2),
        "best_foretold": best[0], "best_earned": best[1], "random_foretold": chance[0], "random_earned": chance[1],
    }  # fmt: skip


def main(models: Path | None) -> None:
    th.set_num_threads(1)
    users = make_users("focused", "topdown", "latent", "belief", models)
    size = users.actions.space.shape or ()
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        generator = np.random.default_rng(seed)

        def chance(obs: Any, generator: np.random.Generator = generator) -> np.ndarray:
            return generator.uniform(-1, 1, (users.engine.n_users, *size)).astype(np.float32)

        for name, act, show in (("random", chance, None), ("logging", None, EpsilonGreedyOracle(0.5, seed))):
            rows.append({"dataset": name, "seed": seed} | compared(users, act, show, seed))
            print(rows[-1], flush=True)
    found = {"provenance": provenance(SEEDS), "world": "gems/focused_topdown-v0", "models": users.fingerprints, "rows": rows}
    (RESULTS / "gems_confounding.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--models", type=Path, help="folder of the models (default: the user's cache)")
    main(parser.parse_args().models)
