"""
What the paper's preset amounts to on ``dmc/cheetah-run-v0``, beside what the official code amounts to.

    python benchmarks/paper_preset.py

Counted on the model that ``zoo_configs/pgrsac_paper.yml`` makes, and on a generator that draws; a minute. Prints and writes
``benchmarks/results/paper_preset.json``. The exit status is 1 if a number differs.
"""

import json
import sys
from importlib import resources
from typing import Any

import torch as th
import yaml
from provenance import RESULTS, provenance
from torch import nn

AVERAGE = "step from which the average decays by 0.995"
OFFICIAL = {
    "weights of the denoiser": 26_243_625,
    "weights of the curiosity network": 1_129_990,
    "evaluations of the denoiser for a sample": 383,
    "churned noise levels, of 128": 96,
    "steps of a fit": 100_000,
    AVERAGE: 2_930,  # to within the ten steps between two updates of the average
    "real rows of a batch": 128,
    "synthetic rows of a batch": 128,
    "critic steps for one of the actor": 20,
}


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def evaluations(samples: int = 2) -> float:
    """Rows that the denoiser is asked for, for each that is drawn."""
    from sb3_pgr.generative.generator import TransitionGenerator

    generator = TransitionGenerator(17, 6, config={"preset": "paper", "train_steps": 1})
    sizes = {"observations": 17, "actions": 6, "rewards": 1, "next_observations": 17, "dones": 1}
    real = {name: th.rand(256, size) for name, size in sizes.items()}
    generator.fit(real, th.rand(256))
    rows: list[int] = []
    generator.ema.network.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    generator.sample(samples, th.rand(samples))
    return sum(rows) / samples


def counted() -> dict[str, float]:
    from sb3_pgr import PGRSAC
    from sb3_pgr.generative.edm import EDM
    from sb3_pgr.generative.ema import WarmupEMA

    given = yaml.safe_load((resources.files("sb3_pgr.zoo_configs") / "pgrsac_paper.yml").read_text())["default"]
    settings = {name: value for name, value in given.items() if name != "n_timesteps"}
    model = PGRSAC(env="dmc/cheetah-run-v0", device="cpu", **settings)
    replay: Any = model.replay_buffer
    config = replay.generator.config
    ema = WarmupEMA(nn.Linear(1, 1), config.ema_decay)
    while ema.current_decay() < config.ema_decay:
        ema.update(nn.Linear(1, 1))
    synthetic = round(replay.synthetic_ratio * model.batch_size)
    numbers = (
        weights(replay.generator.network),
        weights(replay.relevance.network),
        evaluations(),
        sum(gamma > 0 for gamma in config.sampler.gammas(EDM().schedule(config.sampler.n_steps)[:-1])),
        config.train_steps,
        ema.step,
        model.batch_size - synthetic,
        synthetic,
        model.policy_delay,
    )
    return dict(zip(OFFICIAL, numbers, strict=True))


if __name__ == "__main__":
    import sb3_pgr  # noqa: F401  (registers the environments)

    ours = counted()
    print("| | official | ours |\n|---|---|---|")
    for name, number in ours.items():
        print(f"| {name} | {OFFICIAL[name]:,} | {number:,.0f} |")
    wrong = [name for name, number in ours.items() if abs(number - OFFICIAL[name]) > (10 if name == AVERAGE else 0)]
    result = {"provenance": provenance(), "official": OFFICIAL, "ours": ours, "wrong": wrong}
    (RESULTS / "paper_preset.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(f"Different: {', '.join(wrong)}." if wrong else 0)
