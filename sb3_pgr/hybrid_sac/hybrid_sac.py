"""Soft actor-critic for robots with discrete grippers, demonstrations and interventions."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import polyak_update

from sb3_pgr.buffers import DemonstrationReplayBuffer, GraspReplayBuffer, PrioritizedReplayBuffer, sample_block
from sb3_pgr.buffers.fields import scaled_actions
from sb3_pgr.common.checks import check_counts, check_shares, require_policy
from sb3_pgr.common.device import choose_device
from sb3_pgr.common.engine import Block, UpdateEngine, require_cuda
from sb3_pgr.common.optimizers import apply_gradients, gradients_of, set_learning_rate
from sb3_pgr.common.vision import shifted
from sb3_pgr.hybrid_sac.demonstrations import DemonstrationSAC
from sb3_pgr.hybrid_sac.encoders import image_keys
from sb3_pgr.hybrid_sac.episode_log import EpisodeLog
from sb3_pgr.hybrid_sac.grippers import gripper_indices as indices_of
from sb3_pgr.hybrid_sac.grippers import to_classes, to_values
from sb3_pgr.hybrid_sac.policies import CnnPolicy, HybridCritic, HybridPolicy, MlpPolicy, MultiInputPolicy
from sb3_pgr.offline import DatasetError, OfflineDataset

ACTOR_VALUES = ("mean", "min")
_SHIFT = 4  # pixels, as HIL-SERL and DrQ


class HybridSAC(DemonstrationSAC):
    """
    SAC with a learned discrete gripper, from demonstrations and interventions (HIL-SERL, Luo et al. 2024,
    https://arxiv.org/abs/2410.21845; RLPD, Ball et al. 2023, https://arxiv.org/abs/2302.02948).

    Actions are one flat ``Box``. The grippers' entries are commands: -1 close, 0 stay, 1 open. A critic of their own, trained
    as a double DQN, chooses them; the actor and the continuous critics never see them. ``info["grasp_penalty"]`` of a step is
    added to the reward in the grasp critic's target alone. Every batch is drawn half from live experience, half from the
    demonstrations. Where ``info["intervene_action"]`` says that somebody took over, that action is stored, and the
    transition joins the demonstrations too.

    All losses of an update are taken at the same parameters. One encoder serves all networks and is trained by the critics
    alone. Parameters not listed are those of SB3's ``SAC``; not here: gSDE, ``n_steps``,
    ``target_update_interval`` and ``optimize_memory_usage`` (images are stored once anyway).

    :param policy: ``"MlpPolicy"`` for a flat state, ``"CnnPolicy"`` for an image, ``"MultiInputPolicy"`` for a Dict of images
        and states, or a class
    :param env: environment, or its registered id
    :param demonstrations: whatever ``load_dataset`` takes: a file, arrays, a dataset. Kept in the replay buffer
    :param setup_mode: ``"single-arm-fixed-gripper"``, ``"single-arm-learned-gripper"``, ``"dual-arm-fixed-gripper"`` or
        ``"dual-arm-learned-gripper"``: the last entry of each arm's part is a gripper, or none is
    :param gripper_indices: entries that are grippers, for any other layout; in place of ``setup_mode``
    :param learning_starts: steps before the first update
    :param random_steps: steps with random actions, each gripper command being equally likely
    :param gradient_steps: full updates after each rollout
    :param cta_ratio: updates of the critics for one of the actor: each full update follows ``cta_ratio - 1`` of the critics
        alone, all on rows of their own
    :param demo_share: share of demonstrations in a batch
    :param n_critics: size of the ensemble
    :param actor_value: the actor is trained on the ``"mean"`` over the critics (HIL-SERL) or their ``"min"`` (SAC)
    :param backup_entropy: whether the critics' targets hold the entropy of the next action
    :param value_range: least and greatest value that a state can have, if that is known; the values in targets are clipped to
        it (of the grasp critic, whose penalties count too, to the greatest alone). ``(0, 1)`` where success earns 1, ends the
        episode, and is all that is earned. Not in HIL-SERL: there, values may run away before the first successes
    :param target_entropy: ``"auto"`` is half the number of an action's entries, grippers included, negative
    :param grasp_epsilon: probability of a random gripper command while training
    :param augmentation: move images by up to 4 pixels, all cameras of an observation alike
    :param compile: compile the losses with ``torch.compile``
    :param precision: ``"fp32"`` or ``"bf16"`` (bfloat16 autocast)
    :param cuda_graph: run each block of updates as one CUDA graph
    :param dataset: in place of demonstrations: ``learn`` is then ``learn_offline``. It is not saved with the model
    :param device: ``"auto"`` is CUDA, MPS or the CPU, the first there is
    :param policy_kwargs: see ``HybridPolicy``; of images, ``features_extractor_kwargs``: see ``HybridExtractor``
    :raises ValueError: if an argument is out of range, or ``setup_mode`` does not fit the actions
    :raises DatasetError: if demonstrations make no sense or do not fit the environment
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: HybridPolicy
    critic: HybridCritic  # type: ignore[assignment]
    critic_target: HybridCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[HybridPolicy],
        env: GymEnv | str,
        demonstrations: Any = None,
        setup_mode: str | None = None,
        gripper_indices: Sequence[int] | None = None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 200_000,
        learning_starts: int = 100,
        random_steps: int = 0,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.97,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        cta_ratio: int = 2,
        demo_share: float = 0.5,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        ent_coef: str | float = "auto_0.01",
        target_entropy: str | float = "auto",
        n_critics: int = 2,
        actor_value: str = "mean",
        backup_entropy: bool = False,
        value_range: Sequence[float] | None = None,
        grasp_epsilon: float = 0.0,
        augmentation: bool = True,
        compile: bool = False,
        precision: str = "fp32",
        cuda_graph: bool = False,
        dataset: Any = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if setup_mode is not None and gripper_indices is not None:
            raise ValueError("Give setup_mode or gripper_indices, not both.")
        if demonstrations is not None and dataset is not None:
            raise ValueError("Give demonstrations or dataset, not both.")
        for name in ("n_critics", "gripper_indices"):
            if name in (policy_kwargs or {}):
                raise ValueError(f"{name} is an argument of HybridSAC itself, not of policy_kwargs.")
        self.setup_mode = setup_mode
        self.gripper_indices = None if gripper_indices is None else tuple(gripper_indices)
        self.random_steps = random_steps
        self.cta_ratio = cta_ratio
        self.demo_share = demo_share
        self.n_critics = n_critics
        self.actor_value = actor_value
        self.backup_entropy = backup_entropy
        self.value_range: Any = value_range
        self.grasp_epsilon = grasp_epsilon
        self.augmentation = augmentation
        self.compile = compile
        self.precision = precision
        self.cuda_graph = cuda_graph
        env = maybe_make_env(env, verbose)
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class or DemonstrationReplayBuffer,
            replay_buffer_kwargs=replay_buffer_kwargs,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),  # which is changed here
            verbose=verbose,
            seed=seed,
            device=choose_device(device, None if env is None else env.observation_space),
            _init_setup_model=False,
        )
        self.policy_kwargs.pop("use_sde", None)
        self.dataset_fingerprint: str | None = None
        self._warned_of_returns = False
        self._observed = []
        if _init_setup_model:
            if env is None:
                raise ValueError("HybridSAC needs an environment, for its spaces; learn_offline takes no step in it.")
            require_cuda(cuda_graph, self.device)
            if dataset is not None:
                self.dataset = demonstrations = self._fitted(dataset)
                self.dataset_fingerprint = self.dataset.fingerprint
                room = max(self.buffer_size, len(self.dataset))
                self.replay_buffer_kwargs = {"demo_size": room} | self.replay_buffer_kwargs
            self._setup_model()
            if demonstrations is not None:
                self.add_demonstrations(demonstrations)

    def _check_arguments(self) -> None:
        """Those of the constructor, and those that ``load`` was given in place of the saved ones."""
        if self.actor_value not in ACTOR_VALUES:
            raise ValueError(f"actor_value={self.actor_value!r} is not known; choose one of {', '.join(ACTOR_VALUES)}.")
        check_counts(batch_size=self.batch_size, cta_ratio=self.cta_ratio, n_critics=self.n_critics)
        check_shares(demo_share=self.demo_share, grasp_epsilon=self.grasp_epsilon)
        limits = (-math.inf, math.inf) if self.value_range is None else tuple(map(float, self.value_range))
        if not (len(limits) == 2 and limits[0] < limits[1]):
            raise ValueError(f"value_range={self.value_range} must be two numbers, the lesser first.")
        self.value_range = limits
        buffer_class = self.replay_buffer_class
        if buffer_class is None or not issubclass(buffer_class, DemonstrationReplayBuffer):
            raise ValueError(
                f"replay_buffer_class={getattr(buffer_class, '__name__', None)} must be a DemonstrationReplayBuffer: "
                "others know nothing of interventions."
            )
        if issubclass(self.replay_buffer_kwargs.get("online_class", GraspReplayBuffer), PrioritizedReplayBuffer):
            raise ValueError("online_class=PrioritizedReplayBuffer: HybridSAC draws its rows uniformly.")
        saved = self.policy_kwargs.get("n_critics", self.n_critics)
        if saved != self.n_critics:
            raise ValueError(f"n_critics={self.n_critics}: the saved model has {saved} critics.")

    def _setup_model(self) -> None:
        require_policy(self, HybridPolicy)
        self._check_arguments()
        action_dim = get_action_dim(self.action_space)
        if self.setup_mode is not None:
            self.gripper_indices = indices_of(self.setup_mode, action_dim)
        self.policy_kwargs |= {"gripper_indices": self.gripper_indices or (), "n_critics": self.n_critics}
        self._pictures = image_keys(self.observation_space)
        if self._pictures and not self.policy_kwargs.get("normalize_images", True):
            raise ValueError("normalize_images must be True: the encoder takes images in [0, 1].")
        self.optimize_memory_usage = bool(self._pictures)  # each frame is kept once
        if self.target_entropy == "auto":
            self.target_entropy = -action_dim / 2
        given = self.replay_buffer_kwargs  # what is saved; the rest follows the model's own arguments
        self.replay_buffer_kwargs = {"demo_share": self.demo_share, "gamma": self.gamma} | given
        super()._setup_model()
        self.replay_buffer_kwargs = given
        of_images = self.policy_kwargs.get("features_extractor_kwargs") or {}
        if of_images.get("trunk_weights") is not None:  # they are the policy's now: who loads it needs no such file
            kept = {name: value for name, value in of_images.items() if name != "trunk_weights"}
            self.policy_kwargs["features_extractor_kwargs"] = kept | {"freeze_trunk": True}
        if self.gripper_indices and not isinstance(self.replay_buffer.online, GraspReplayBuffer):
            raise ValueError(f"online_class={type(self.replay_buffer.online).__name__} must be a GraspReplayBuffer.")
        self._continuous, self._grippers = list(self.policy.continuous_indices), list(self.policy.gripper_indices)
        self._continuous_columns = th.tensor(self._continuous, device=self.device)
        self._gripper_columns = th.tensor(self._grippers, device=self.device, dtype=th.long)
        self._image_keys = self._pictures if self.augmentation else []
        self.episode_log = EpisodeLog(self.n_envs, self._stats_window_size, self.gamma)
        self._offline = False
        self._engine = UpdateEngine(self.device, self.compile, self.precision, self.cuda_graph)
        self._compute_losses = self._engine.wrap(self._losses)
        self._critic_parameters: list[th.Tensor] = list(self.critic.parameters())
        self._target_parameters: list[th.Tensor] = list(self.critic_target.parameters())

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        for updates in self._engine.blocks(gradient_steps):
            self._train_block(updates, batch_size)

    def _train_block(self, gradient_steps: int, batch_size: int) -> None:
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers:
            set_learning_rate(optimizer, learning_rate)
        n_updates = gradient_steps * self.cta_ratio
        source = self.replay_buffer.demonstrations if self._offline else self.replay_buffer
        rows = sample_block(source, n_updates, batch_size, self._vec_normalize_env)
        block: Block = {name: value for name, value in rows._asdict().items() if value is not None}
        block |= self._noise(n_updates, batch_size)
        flags = [i % self.cta_ratio == 0 for i in range(1, n_updates + 1)]
        metrics = self._engine.run(self._update, block, flags, optimizers)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        self.policy.set_training_mode(False)

    def _noise(self, n_updates: int, batch_size: int) -> Block:
        """All randomness of a block, so that an update is a function of its batch."""
        shape = (n_updates, batch_size, len(self._continuous))
        noise = {name: th.randn(shape, device=self.device) for name in ("noise", "next_noise")}
        if self._image_keys:
            for name in ("shift", "next_shift"):
                noise[name] = th.randint(-_SHIFT, _SHIFT + 1, (n_updates, batch_size, 2), device=self.device)
        return noise

    def _update(self, batch: Block, full: bool) -> dict[str, th.Tensor]:
        """One update, of the critics alone or of all, on tensors of shape ``(batch_size, ...)``."""
        losses, metrics = self._compute_losses(batch, full)
        optimizers = {"critic": self.critic.optimizer, "actor": self.actor.optimizer}
        if self.ent_coef_optimizer is not None:
            optimizers["ent_coef"] = self.ent_coef_optimizer
        # All gradients before any step.
        gradients = {name: gradients_of(optimizers[name], loss, len(losses) > 1) for name, loss in losses.items()}
        for name, gradient in gradients.items():
            apply_gradients(optimizers[name], gradient)
        with th.no_grad():
            th._foreach_lerp_(self._target_parameters, self._critic_parameters, self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        return metrics

    def _losses(self, batch: Block, full: bool) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
        obs = self._augmented(batch["observations"], batch.get("shift"))
        next_obs = self._augmented(batch["next_observations"], batch.get("next_shift"))
        rewards = batch["rewards"].squeeze(-1)
        discounts = batch["discounts"].squeeze(-1) if "discounts" in batch else self.gamma
        discounts = discounts * (1 - batch["dones"].squeeze(-1))
        ent_coef = self._ent_coef()
        with th.no_grad():
            next_features, target_features = self.critic.encode(next_obs), self.critic_target.encode(next_obs)
            next_actions, next_log_prob = self.policy.sample_continuous(next_features, batch["next_noise"])
            next_q = self.critic_target.values(target_features, next_actions).float().amin(0).clamp(*self.value_range)
            if self.backup_entropy:
                next_q = next_q - ent_coef * next_log_prob
            target = rewards + discounts * next_q
        features = self.critic.encode(obs)
        q_values = self.critic.values(features, batch["actions"][:, self._continuous_columns]).float()
        critic_loss = (q_values - target).pow(2).mean()
        losses, metrics = {"critic": critic_loss}, {"critic_loss": critic_loss.detach(), "q_mean": q_values.detach().mean()}
        if self._grippers:
            # Double DQN over joint commands; the penalty enters here and nowhere else.
            with th.no_grad():
                best = self.critic.grasp_values(next_features).argmax(1, keepdim=True)
                next_value = self.critic_target.grasp_values(target_features).gather(1, best).squeeze(1)
                next_value = next_value.clamp(max=self.value_range[1])
                penalties = batch["grasp_penalties"].squeeze(-1) if "grasp_penalties" in batch else 0.0
                grasp_target = rewards + penalties + discounts * next_value
            chosen = to_classes(batch["actions"][:, self._gripper_columns]).unsqueeze(1)
            grasp_value = self.critic.grasp_values(features).gather(1, chosen).squeeze(1)
            grasp_loss = (grasp_value - grasp_target).pow(2).mean()
            losses["critic"] = critic_loss + grasp_loss
            metrics["grasp_critic_loss"] = grasp_loss.detach()
        if full:
            features = features.detach()  # the critics alone train the encoder
            actions, log_prob = self.policy.sample_continuous(features, batch["noise"])
            values = self.critic.values(features, actions).float()
            value = values.mean(0) if self.actor_value == "mean" else values.amin(0)
            losses["actor"] = (ent_coef * log_prob - value).mean()
            metrics |= {"actor_loss": losses["actor"].detach(), "ent_coef": ent_coef.squeeze()}
            if self.ent_coef_optimizer is not None:
                assert self.log_ent_coef is not None and isinstance(self.target_entropy, float)
                # Of the next observations' actions, as HIL-SERL has it.
                excess = -next_log_prob.mean() - self.target_entropy
                losses["ent_coef"] = (self.log_ent_coef.exp() * excess).mean()
                metrics["ent_coef_loss"] = losses["ent_coef"].detach()
        return losses, metrics

    def _augmented(self, obs: Any, offsets: th.Tensor | None) -> Any:
        if offsets is None:
            return obs
        if not isinstance(obs, dict):
            return shifted(obs, offsets)
        return {key: shifted(value, offsets) if key in self._image_keys else value for key, value in obs.items()}

    def _ent_coef(self) -> th.Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def _check_demonstrations(self, dataset: OfflineDataset) -> None:
        if np.abs(scaled_actions(dataset.actions, self.action_space)[:, self._continuous]).max() < 1e-6:
            raise DatasetError(f"{dataset.source}: nothing is done in these demonstrations, all actions are 0.")
        if self._grippers and "grasp_penalty" not in dataset.extras:
            warnings.warn(f"{dataset.source} has no grasp_penalty: its gripper commands cost nothing.", stacklevel=3)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random actions last for ``random_steps``, not until learning starts; gripper commands are whole."""
        noise: Any = None if action_noise is None else lambda: self._of_arms(action_noise())
        action, scaled = super()._sample_action(self.random_steps, noise, n_envs)
        random = np.full(n_envs, self.num_timesteps < self.random_steps)
        if self.grasp_epsilon > 0:
            random |= np.random.random(n_envs) < self.grasp_epsilon
        if self._grippers and random.any():
            commands = np.random.randint(3 ** len(self._grippers), size=n_envs)
            values = to_values(th.as_tensor(commands), len(self._grippers)).numpy()
            scaled[:, self._grippers] = np.where(random[:, None], values, scaled[:, self._grippers])
            action = self.policy.unscale_action(scaled)
        return action, scaled

    def _of_arms(self, noise: np.ndarray) -> np.ndarray:
        noise = np.array(noise)
        noise[..., self._grippers] = 0
        return noise

    def _excluded_save_params(self) -> list[str]:
        own = ["dataset", "episode_log", "_engine", "_compute_losses", "_continuous_columns", "_gripper_columns"]
        own += ["_critic_parameters", "_target_parameters"]
        return super()._excluded_save_params() + own
