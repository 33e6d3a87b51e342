"""
d3rlpy's side of offline_quality.py, which runs this with the python of d3rlpy's environment: train, and leave in FOLDER the
policy at each mark as TorchScript, and ``known.json`` with settings and versions.

    PATH benchmarks/offline_quality_d3rlpy.py DATASET ALGO SEED FOLDER
"""

import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch as th
from d3rlpy import algos
from d3rlpy.models.encoders import VectorEncoderFactory
from offline_quality import DATA, MARKS, UPDATES

VERSIONS = ("d3rlpy", "torch", "gymnasium", "numpy")


def main(dataset: str, algo: str, seed: int, folder: Path) -> None:
    th.set_num_threads(1)
    d3rlpy.seed(seed)
    with np.load(DATA / f"{dataset}.npz") as file:
        arrays = {name: file[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    timeouts = arrays.pop("timeouts") & ~arrays["terminals"]
    timeouts[-1] |= not arrays["terminals"][-1]
    data = d3rlpy.dataset.MDPDataset(**arrays, timeouts=timeouts)
    config = config_of(algo)
    model = config.create(device="cpu:0")
    for scaler in (config.observation_scaler, config.reward_scaler):
        if scaler is not None:  # ``fit`` would do this
            slicer = d3rlpy.dataset.BasicTrajectorySlicer()
            if isinstance(scaler, d3rlpy.preprocessing.RewardScaler):
                scaler.fit_with_trajectory_slicer(data.episodes, slicer)
            else:
                scaler.fit_with_transition_picker(data.episodes, data.transition_picker)
    model.build_with_dataset(data)
    draw = drawer(data)
    for mark in range(1, MARKS + 1):
        for _ in range(UPDATES[algo] // MARKS):
            model.update(draw(model.batch_size))
        with candidates(model, 100):
            model.save_policy(str(folder / f"mark_{mark}.pt"))
    settings = json.loads(config.serialize()) | ({"candidates_of_predictions": 100} if algo == "bcq" else {})
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    (folder / "known.json").write_text(json.dumps({"settings": settings, "versions": versions}))


def drawer(data: Any) -> Callable[[int], d3rlpy.dataset.TransitionMiniBatch]:
    """``data.sample_transition_batch``, with all transitions picked beforehand: a third of the time of an update is theirs."""
    count = data.buffer.transition_count
    picked = d3rlpy.dataset.TransitionMiniBatch.from_transitions(
        [data.transition_picker(*data.buffer[row]) for row in range(count)]
    )
    columns = {name: column for name, column in vars(picked).items() if name != "transitions"}

    def draw(batch_size: int) -> d3rlpy.dataset.TransitionMiniBatch:
        rows = np.random.randint(count, size=batch_size)
        batch = {name: column[rows] for name, column in columns.items()}
        return d3rlpy.dataset.TransitionMiniBatch(**batch, transitions=[])

    return draw


def config_of(algo: str) -> Any:
    """Settings of ``zoo_configs``; what is not here is d3rlpy's default and the same."""
    standard = d3rlpy.preprocessing.StandardObservationScaler()
    wide = VectorEncoderFactory([256, 256, 256])
    if algo == "bc":
        return algos.BCConfig(batch_size=256, learning_rate=3e-4, observation_scaler=standard)
    if algo == "td3_bc":
        return algos.TD3PlusBCConfig(observation_scaler=standard)
    if algo == "iql":
        cosine = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=UPDATES[algo])
        return algos.IQLConfig(
            actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=cosine),
            weight_temp=3.0,
            max_weight=100.0,
            expectile=0.7,
            reward_scaler=d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0),
        )
    if algo == "cql":
        return algos.CQLConfig(
            actor_encoder_factory=wide,
            critic_encoder_factory=wide,
            actor_learning_rate=3e-5,
            temp_learning_rate=3e-5,
            alpha_learning_rate=0.0,  # no Lagrange multiplier
            conservative_weight=10.0,
            n_action_samples=10,
            observation_scaler=standard,
        )
    return algos.BCQConfig(
        actor_encoder_factory=VectorEncoderFactory([400, 300]),
        critic_encoder_factory=VectorEncoderFactory([400, 300]),
        imitator_encoder_factory=VectorEncoderFactory([750, 750]),
        n_action_samples=10,
    )


@contextlib.contextmanager
def candidates(model: Any, number: int) -> Iterator[None]:
    """Of BCQ's predictions; d3rlpy has one number for them and for targets, and no public way to tell them apart."""
    if not isinstance(model, algos.BCQ):
        yield
        return
    trained_with, model.impl._n_action_samples = model.impl._n_action_samples, number
    try:
        yield
    finally:
        model.impl._n_action_samples = trained_with


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
