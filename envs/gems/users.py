"""Users of a world as an agent meets them: its actions become slates, what users do becomes its observations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sb3_pgr.envs.gems.actions import Actions, KHeadActions, LatentActions, SlateActions, TopKActions
from sb3_pgr.envs.gems.belief import BeliefEncoder
from sb3_pgr.envs.gems.engine import GemsEngine, Outcome
from sb3_pgr.envs.gems.items import Items
from sb3_pgr.envs.gems.model_files import BELIEF, MODELLED, SLATE_VAE, Model, fingerprint, load_model, models_folder
from sb3_pgr.envs.gems.observations import Belief, History, LastSlate, Observations, Observed, Privileged
from sb3_pgr.envs.gems.random import episode_keys
from sb3_pgr.envs.gems.slate_vae import SlateVAE
from sb3_pgr.envs.gems.world import make_engine


@dataclass
class Users:
    """
    Users whose episodes begin and end together; the same for one and for thousands.

    :param engine: simulates them
    :param actions: what actions mean
    :param observations: what is seen
    """

    engine: GemsEngine
    actions: Actions
    observations: Observations
    slates: np.ndarray = field(init=False)
    outcome: Outcome = field(init=False)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the models behind actions and observations, by file name."""
        models = {SLATE_VAE: getattr(self.actions, "model", None), BELIEF: getattr(self.observations, "encoder", None)}
        return {name: fingerprint(model) for name, model in models.items() if model is not None}

    def reset(self, seeds: np.ndarray, episode: int) -> Observed:
        """
        :param seeds: of the environments ``(n_users,)``
        :param episode: how many there were before
        """
        self.slates, self.outcome = self.engine.reset(episode_keys(seeds, episode))
        return self.observations.observe(self.slates, self.outcome.clicks, True)

    def step(self, actions: np.ndarray) -> tuple[Observed, np.ndarray, bool]:
        """What is seen, clicks ``(n_users,)``, and whether the episodes are over."""
        return self.show(np.asarray(self.actions.to_slates(np.asarray(actions))))

    def show(self, slates: np.ndarray) -> tuple[Observed, np.ndarray, bool]:
        """As ``step``, for slates ``(n_users, slate_size)`` instead of actions."""
        self.slates = slates
        self.outcome = self.engine.step(slates)
        over = self.engine.step_number >= self.engine.config.horizon
        return self.observations.observe(slates, self.outcome.clicks, False), self.outcome.clicks.sum(1), over


def make_users(
    items: str | Items,
    world: str,
    actions: str = "slate",
    observations: str = "slate",
    models: str | Path | None = None,
    history: int = 8,
    fingerprints: Mapping[str, str] | None = None,
    **changes: Any,
) -> Users:
    """
    :param items: ``"focused"``, ``"diffuse"``, or a catalogue
    :param world: ``"topdown"``, ``"mix"`` or ``"divpen"``
    :param actions: ``"slate"``, ``"latent"``, ``"top_k"`` or ``"k_head"``
    :param observations: ``"slate"``, ``"belief"``, ``"history"`` or ``"privileged"``
    :param models: folder with the models; by default where ``sb3-pgr gems build`` writes those of the world. For a catalogue
        of your own ``./models``
    :param history: slates that are seen, if it is history that is seen
    :param fingerprints: ``Users.fingerprints`` of an agent or a dataset, whose models no others can replace
    :param changes: numbers of ``GemsConfig`` that are to differ
    :raises ValueError: if a name is not known
    :raises ModelError: if a model is missing, of another world, or of another fingerprint
    """
    engine = make_engine(items, world, **changes)
    for name, value, known in (("actions", actions, ACTIONS), ("observations", observations, OBSERVATIONS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}.")
    folder = models_folder(items, world) if isinstance(items, str) else Path("models")
    if isinstance(items, str) and not changes.keys() & {*MODELLED, "n_topics", "topic_size"}:
        command = f"sb3-pgr gems build --env gems/{items}_{world}-v0"
        if models is not None:
            command += f" --models {models}"
    else:
        command = "sb3_pgr.envs.gems.build.build_models(engine, FOLDER)"
    parts = _Parts(engine, folder if models is None else Path(models).expanduser(), command, history, fingerprints or {})
    return Users(engine, ACTIONS[actions](parts), OBSERVATIONS[observations](parts))


@dataclass
class _Parts:
    """What a kind of action or observation may need."""

    engine: GemsEngine
    folder: Path
    command: str
    history: int
    fingerprints: Mapping[str, str]

    def model(self, kind: type[Model], name: str) -> Model:
        return load_model(kind, self.folder / name, self.engine, self.command, self.fingerprints.get(name))


ACTIONS: dict[str, Callable[[_Parts], Actions]] = {
    "slate": lambda parts: SlateActions(parts.engine),
    "latent": lambda parts: LatentActions(parts.model(SlateVAE, SLATE_VAE)),
    "top_k": lambda parts: TopKActions(parts.engine),
    "k_head": lambda parts: KHeadActions(parts.engine),
}
OBSERVATIONS: dict[str, Callable[[_Parts], Observations]] = {
    "slate": lambda parts: LastSlate(parts.engine),
    "belief": lambda parts: Belief(parts.model(BeliefEncoder, BELIEF)),
    "history": lambda parts: History(parts.engine, parts.history),
    "privileged": lambda parts: Privileged(parts.engine),
}
