"""Behaviour cloning."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_pgr.bc.policies import BCPolicy
from sb3_pgr.common.engine import Block
from sb3_pgr.common.optimizers import optimizer_step
from sb3_pgr.offline.algorithm import OfflineAlgorithm
from sb3_pgr.offline.dataset import DatasetError, OfflineDataset
from sb3_pgr.offline.policies import GaussianActor

SelfBC = TypeVar("SelfBC", bound="BC")


class BC(OfflineAlgorithm):
    """
    Behaviour cloning: imitate the actions of the dataset, or of its best episodes. The baseline of every offline table.

    Parameters not listed are those of ``OfflineAlgorithm``. It has no targets, discount and map of rewards, and nothing
    for going on online.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a class; ``policy_kwargs=dict(gaussian=True)`` maximises the
        likelihood of a normal distribution instead of minimising squared errors
    :param env: for spaces
    :param dataset: whatever ``load_dataset`` takes
    :param best_fraction: imitate only this share of the episodes, those with the highest return ("10 % BC")
    :raises ValueError: if a number is out of range, or there is no dataset
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": BCPolicy, "MultiInputPolicy": BCPolicy}
    can_go_online = False  # there is nothing to imitate in an environment
    policy: BCPolicy

    def __init__(
        self,
        policy: str | type[BCPolicy],
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        best_fraction: float = 1.0,
        normalize_observations: bool = True,
        block_size: int = 20,
        compile: bool = False,
        precision: str = "fp32",
        cuda_graph: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if dataset is None and _init_setup_model:
            raise ValueError("BC needs a dataset; there is nothing to imitate in an environment.")
        self.best_fraction = best_fraction
        super().__init__(
            policy,
            env,
            dataset,
            learning_rate,
            batch_size,
            normalize_observations=normalize_observations,
            block_size=block_size,
            buffer_size=1,  # of live experience, which there is none of
            compile=compile,
            precision=precision,
            cuda_graph=cuda_graph,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if not 0 < self.best_fraction <= 1:
            raise ValueError(f"best_fraction={self.best_fraction} must be above 0 and at most 1.")

    def _setup_model(self) -> None:
        super()._setup_model()
        self._compute_loss = self._engine.wrap(self._loss)

    def _prepared(self, dataset: OfflineDataset) -> OfflineDataset:
        if self.best_fraction == 1:
            return dataset
        if not dataset.played.all():
            raise DatasetError(
                f"{dataset.source} has single (synthetic) transitions, which are part of no episode: best_fraction must be 1."
            )
        count = max(round(self.best_fraction * len(dataset.episode_returns)), 1)
        return dataset.select_episodes(np.sort(np.argsort(-dataset.episode_returns, kind="stable")[:count]))

    def _optimizers(self) -> Mapping[str, th.optim.Optimizer]:
        return {"actor": self.policy.actor.optimizer}

    def _update(self, batch: Block, flag: bool) -> dict[str, th.Tensor]:
        loss = self._compute_loss(batch)
        optimizer_step(self.policy.actor.optimizer, loss)
        return {"bc_loss": loss.detach()}

    def _loss(self, batch: Block) -> th.Tensor:
        """Mean squared error over rows and dimensions, or mean negative log likelihood."""
        actor = self.policy.actor
        if isinstance(actor, GaussianActor):
            return -actor.log_prob(batch["observations"], batch["actions"]).mean()
        return (actor(batch["observations"]) - batch["actions"]).pow(2).mean()

    def learn(
        self: SelfBC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "BC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBC:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_compute_loss"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.actor.optimizer"], []
