"""The models of a world, from logs that the simulator makes."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sb3_pgr.envs.gems.belief import BeliefEncoder, train_belief
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.logs import Logs, simulate
from sb3_pgr.envs.gems.model_files import BELIEF, SLATE_VAE, save_model
from sb3_pgr.envs.gems.policies import EpsilonGreedyOracle, SlatePolicy
from sb3_pgr.envs.gems.random import episode_keys
from sb3_pgr.envs.gems.slate_vae import SlateVAE, train_slate_vae

LOG_USERS, LATENT_USERS, AT_A_TIME = 10**12, 2 * 10**12, 1_000  # far from every seed of an environment


@dataclass(frozen=True)
class Preset:
    """
    How much is logged and learned.

    :param users: of the logging policy, whose slates the model of slates learns, a hundred each
    :param epochs: passes over them
    :param belief_users: whose episodes a belief encoder learns
    :param belief_epochs: passes over them
    :param kl_weight: of the slate model's loss; published: 0.5 or 1
    :param click_weight: of the slate model's loss; published: 0.2 or 0.5
    """

    users: int = 10_000
    epochs: int = 3
    belief_users: int = 6_000
    belief_epochs: int = 20
    kl_weight: float = 1.0
    click_weight: float = 0.2


PRESETS = {
    "tiny": Preset(users=60, epochs=2, belief_users=120, belief_epochs=2),  # to try the commands
    "fast": Preset(),
    "full": Preset(users=100_000, belief_users=40_000),
}


class RandomLatents:
    """
    Slates of random latent actions; a user's change slowly, so that slates resemble each other as an agent's do.

    :param model: decodes
    :param inertia: correlation from step to step
    """

    def __init__(self, model: SlateVAE, inertia: float = 0.7, seed: int = 0):
        self.model, self.inertia, self.generator = model, inertia, np.random.default_rng(seed)
        self._actions = np.zeros((0, model.latent_dim), np.float32)

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        noise = self.generator.standard_normal((engine.n_users, self.model.latent_dim)).astype(np.float32)
        mixed = self.inertia * self._actions + (1 - self.inertia**2) ** 0.5 * noise if engine.step_number else noise
        self._actions = mixed
        return self.model.decode(self.model.to_latents(np.clip(self._actions / 2, -1, 1)))


def logged(engine: GemsEngine, policy: SlatePolicy, first_user: int, n_users: int) -> Logs:
    """Episodes of users ``first_user`` and on."""
    seeds = np.arange(first_user, first_user + n_users)
    parts = [simulate(engine, policy, episode_keys(part, 0)) for part in np.array_split(seeds, -(-n_users // AT_A_TIME))]
    return Logs(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts))))


def build_models(
    engine: GemsEngine,
    folder: str | Path,
    preset: Preset | None = None,
    seed: int = 0,
    device: str = "cpu",
    compile: bool = True,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> dict[str, Any]:
    """
    Log, train the model of slates and the belief encoder, and write both, with ``build.json`` beside them.

    The items' embeddings of the slate model are not its own, as the paper's are: they are learned first, by a belief encoder
    that foretells clicks, and stay. Items that the same users like are then neighbours, so that what a latent action decodes
    to changes little by little, and an agent finds its way. The belief encoder that is kept has also seen slates of random
    latent actions, which are more like an agent's than those of the logging policy.

    :param engine: of the world
    :param folder: to write to
    :param preset: how much; ``PRESETS["fast"]`` by default
    :param compile: use ``torch.compile`` (needs a C++ compiler)
    :param progress: called with what is trained, the step, the number of steps and the loss
    :return: what ``build.json`` has: preset, seconds, losses on validation data
    """
    preset, folder, started = preset or PRESETS["fast"], Path(folder), time.monotonic()

    def report(what: str) -> Callable[[int, int, float], None] | None:
        return None if progress is None else lambda step, steps, loss: progress(what, step, steps, loss)

    n_items, k = len(engine.items.topics), engine.config.slate_size
    logs = logged(engine, EpsilonGreedyOracle(0.5, seed), LOG_USERS, preset.users)

    def belief_of(episodes: Logs, what: str) -> tuple[BeliefEncoder, dict[str, float]]:
        episodes = episodes[np.random.default_rng(seed).permutation(len(episodes.slates))]
        return train_belief(episodes, n_items, epochs=preset.belief_epochs, seed=seed, device=device, on_step=report(what))

    of_clicks, _ = belief_of(logs[: preset.belief_users], "items")
    slate_vae, slate_scores = train_slate_vae(
        logs.slates[:, 1:].reshape(-1, k),
        logs.clicks[:, 1:].reshape(-1, k),
        of_clicks.item_embedding.weight.detach().cpu().numpy(),
        epochs=preset.epochs,
        click_weight=preset.click_weight,
        kl_weight=preset.kl_weight,
        seed=seed,
        device=device,
        compile=compile,
        on_step=report("slates"),
    )
    half = preset.belief_users // 2
    seen = logs[:half] + logged(engine, RandomLatents(slate_vae, seed=seed), LATENT_USERS, half)
    belief, belief_scores = belief_of(seen, "belief")
    save_model(slate_vae, folder / SLATE_VAE, engine)
    save_model(belief, folder / BELIEF, engine)
    summary = {
        "items": engine.items.fingerprint,
        "world": asdict(engine.config),
        "preset": asdict(preset),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "slate_vae": slate_scores,
        "belief_explained_variance": belief_scores,
    }
    temporary = folder / ".writing-build.json"
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(temporary, folder / "build.json")
    return summary
