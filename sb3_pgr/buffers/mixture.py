"""Batches from several sources of transitions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr.buffers.fields import FromShapes
from sb3_pgr.buffers.samples import WeightedSamples, sample_block
from sb3_pgr.buffers.schedules import Schedule, foreseen_values, schedule_value
from sb3_pgr.buffers.sequence import SequenceReplayBuffer
from sb3_pgr.buffers.storage import usable_device
from sb3_pgr.buffers.tensor_replay import TensorReplayBuffer
from sb3_pgr.common.checks import check_counts
from sb3_pgr.common.state import get_arrays, seed_of_torch, set_arrays, set_generator_state, truncate_episodes

ONLINE = "online"
_SOURCE_BITS = 48  # indices of a mixture carry the number of their source above these bits


class MixtureReplayBuffer(FromShapes, ReplayBuffer):
    """
    A replay buffer whose batches are put together from named sources, each with its share: live experience and
    demonstrations (RLPD), live experience and a dataset (offline to online), real and synthetic transitions.

    ``add`` writes to the source ``"online"``; the others are given at construction or with ``set_source``. Always
    exactly ``batch_size`` rows come out, source by source. A source that is empty or missing gives its share to the
    others in proportion to theirs. What a batch cannot hold exactly (a twentieth of 16 rows) is carried over to the
    next, so that shares are kept in the long run without any random draw: with everything from ``"online"``,
    training is the same as with that source alone, bit by bit.

    :param buffer_size: capacity of the online source
    :param observation_space: of all sources
    :param action_space: of all sources
    :param device: where the online source lives
    :param n_envs: number of environments that fill the online source
    :param optimize_memory_usage: of the online source
    :param handle_timeout_termination: of the online source
    :param shares: share of each source in a batch, in proportion to their sum: a number, ``(start, end,
        n_transitions)`` for a linear schedule over the transitions added, or a function of their number (no lambda if the
        buffer is to be pickled)
    :param sources: replay buffers by name. They are not saved with a model's hyper-parameters if they are set with
        ``set_source`` instead
    :param online_class: class of the online source
    :param online_kwargs: further arguments for it
    :param gamma: discount of one step; needed where sources with and without n-step returns are mixed
    :param fixed: names of sources that do not change and are at hand elsewhere: ``state_dict`` holds none of their rows,
        only where their random draws stand
    :raises ValueError: if a share is negative, all are zero, or a source has no share or other spaces
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        shares: Mapping[str, Schedule] | None = None,
        sources: Mapping[str, ReplayBuffer] | None = None,
        online_class: type[ReplayBuffer] = TensorReplayBuffer,
        online_kwargs: Mapping[str, Any] | None = None,
        gamma: float = 0.99,
        fixed: Sequence[str] = (),
    ):
        online = online_class(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs=n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
            **(online_kwargs or {}),
        )
        self.sources: dict[str, ReplayBuffer] = {ONLINE: online}
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = online.buffer_size
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.gamma, self.fixed = gamma, tuple(fixed)
        self._seed = seed_of_torch()  # as of the online source
        if not isinstance(shares, Mapping | None):
            raise ValueError(f"shares={shares!r} must be a mapping from the name of a source to its share.")
        self.shares: dict[str, Schedule] = dict(shares or {ONLINE: 1.0})
        self.n_added = 0
        self.n_drawn = dict.fromkeys(self.shares, 0)
        self._carried = dict.fromkeys(self.shares, 0.0)
        for name, share in self.shares.items():
            if not all(0 <= value < float("inf") for value in foreseen_values(share, f"shares[{name!r}]")):
                raise ValueError(f"shares[{name!r}]={share} must not be negative.")
        self._wanted()
        for name, buffer in (sources or {}).items():
            self.set_source(name, buffer)

    @property
    def online(self) -> ReplayBuffer:
        """The source that ``add`` fills."""
        return self.sources[ONLINE]

    def set_source(self, name: str, buffer: ReplayBuffer) -> None:
        """
        Give or replace a source. It is moved to the mixture's device (give a large one ``storage="memory"`` or
        ``"disk"``, and only its batches are).

        :param name: one of the names in ``shares``
        :param buffer: any replay buffer with the mixture's spaces. Its random draws start anew, from the mixture's seed and
            the place of its name
        :raises ValueError: if the name has no share, or it is no replay buffer, one of other spaces, or one of sequences
        """
        if not isinstance(buffer, ReplayBuffer):
            raise ValueError(f"Source {name!r} must be a replay buffer, not {type(buffer).__name__}.")
        if name not in self.shares:
            raise ValueError(f"There is no share for source {name!r}; shares are {self.shares}.")
        for what in ("observation_space", "action_space"):
            own, other = getattr(self, what), getattr(buffer, what)
            if _form(own) != _form(other):
                raise ValueError(f"Source {name!r} has {what} {other}, the mixture {own}.")
        others = [other for key, other in self.sources.items() if key != name]
        if any(isinstance(part, SequenceReplayBuffer) for part in (buffer, *others)):
            raise ValueError("A SequenceReplayBuffer draws windows, which a mixture does not join with other sources.")
        if buffer is not self.sources.get(name):
            self._seed_source(name, buffer)
        self.sources[name] = buffer
        buffer.device = self.device
        if name == ONLINE:
            self.buffer_size, self.n_envs = buffer.buffer_size, buffer.n_envs

    @property
    def device(self) -> th.device:
        return self._device

    @device.setter
    def device(self, device: th.device | str) -> None:
        self._device = th.device(device)
        for buffer in self.sources.values():
            buffer.device = self._device

    # The place of the next row and the fill are those of the online source.

    @property
    def pos(self) -> int:
        return self.online.pos

    @pos.setter
    def pos(self, value: int) -> None:
        assert value == self.online.pos  # BaseBuffer's constructor sets it to 0

    @property
    def full(self) -> bool:
        return self.online.full

    @full.setter
    def full(self, value: bool) -> None:
        assert value == self.online.full

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store one transition of each environment in the online source."""
        self.online.add(*args, **kwargs)
        self.n_added += self.n_envs

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """Store many transitions of each environment in the online source."""
        self.online.extend(*args, **kwargs)
        reward = args[3] if len(args) > 3 else kwargs["reward"]
        self.n_added += len(reward) * self.n_envs

    @property
    def dones(self) -> Any:  # type: ignore[override]
        return self.online.dones

    @property
    def timeouts(self) -> Any:  # type: ignore[override]
        return self.online.timeouts

    def truncate_episodes(self) -> None:
        """Mark the newest row of the online source as cut off by a time limit."""
        truncate_episodes(self.online)

    def manual_seed(self, seed: int) -> None:
        """Let all sources draw anew, from this seed and the places of their names."""
        self._seed = seed % 2**63
        for name, source in self.sources.items():
            self._seed_source(name, source)

    def _seed_source(self, name: str, source: ReplayBuffer) -> None:
        names = [ONLINE, *(other for other in self.shares if other != ONLINE)]
        if isinstance(source, TensorReplayBuffer):
            source.manual_seed((self._seed + names.index(name)) % 2**62)

    def reset(self) -> None:
        """Forget all rows of the online source, and what was carried over."""
        self.online.reset()
        self._carried = dict.fromkeys(self.shares, 0.0)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw ``batch_size`` rows from the sources.

        :return: as the sources return them, source by source; ``WeightedSamples`` if one of them is prioritized: weights are
            on average the same for each source (its share of a loss is its share of the rows), the largest is 1
        :raises ValueError: if all sources with a share are empty
        """
        counts = self._counts(batch_size)
        parts = {name: self.sources[name].sample(count, env=env) for name, count in counts.items()}
        return self._join(parts, dim=0)

    def sample_block(self, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw the batches of a whole series of updates, all with the same number of rows from each source.

        :return: as ``sample``, tensors of shape ``(gradient_steps, batch_size, ...)``
        :raises ValueError: if all sources with a share are empty
        """
        counts = self._counts(batch_size, gradient_steps)
        parts = {name: sample_block(self.sources[name], gradient_steps, count, env) for name, count in counts.items()}
        return self._join(parts, dim=1)

    def present_shares(self) -> dict[str, float]:
        """
        Each source's share now, of 1; those of empty sources are 0.

        :raises ValueError: if all sources with a share are empty
        """
        wanted = self._wanted()
        filled = {name: share for name, share in wanted.items() if name in self.sources and self.sources[name].size() > 0}
        total = sum(filled.values())
        if total == 0:
            raise ValueError(f"All sources with a share are empty; shares are {wanted}.")
        return {name: filled.get(name, 0.0) / total for name in wanted}

    def _wanted(self) -> dict[str, float]:
        values = {name: schedule_value(share, self.n_added, f"shares[{name!r}]") for name, share in self.shares.items()}
        if any(not 0 <= value < float("inf") for value in values.values()) or sum(values.values()) == 0:
            raise ValueError(f"Shares must not be negative and not all zero; they are {values}.")
        return values

    def _counts(self, batch_size: int, batches: int = 1) -> dict[str, int]:
        """Rows from each source that are not 0: whole parts first, the rest to whom most is owed."""
        check_counts(batch_size=batch_size, batches=batches)
        shares = self.present_shares()
        owed = {name: share * batch_size + self._carried[name] / batches for name, share in shares.items() if share > 0}
        counts = {name: min(max(int(amount), 0), batch_size) for name, amount in owed.items()}
        while sum(counts.values()) > batch_size:  # carried parts may add up to too many
            taken = [name for name, count in counts.items() if count > 0]
            counts[max(taken, key=lambda name: counts[name] - owed[name])] -= 1
        for _ in range(batch_size - sum(counts.values())):
            counts[max(counts, key=lambda name: owed[name] - counts[name])] += 1
        for name in owed:
            self._carried[name] += batches * (shares[name] * batch_size - counts[name])
            self.n_drawn[name] += batches * counts[name]
        return {name: count for name, count in counts.items() if count > 0}

    def _join(self, parts: dict[str, Any], dim: int) -> Any:
        prioritized = any(hasattr(buffer, "update_priorities") for buffer in self.sources.values())
        if len(parts) == 1 and not prioritized:
            return next(iter(parts.values()))
        batches = list(parts.values())
        columns: dict[str, Any] = {}
        for field in ("observations", "actions", "next_observations", "dones", "rewards"):
            columns[field] = _cat([getattr(batch, field) for batch in batches], dim)
        if any(batch.discounts is not None for batch in batches):
            columns["discounts"] = th.cat([_or_full(batch.discounts, batch.rewards, self.gamma) for batch in batches], dim)
        if not prioritized:
            kind = max((type(batch) for batch in batches), key=lambda kind: len(kind._fields))
            for field in set(kind._fields) - {*type(batches[0])._fields[:6]}:  # what not every source may know
                columns[field] = th.cat([_or_full(getattr(batch, field, None), batch.rewards, 0.0) for batch in batches], dim)
            return kind(**columns)
        columns["weights"] = _weights(
            [_or_full(getattr(batch, "weights", None), batch.rewards, 1.0) for batch in batches], dim
        )
        indices = []
        for name, batch in parts.items():
            own = getattr(batch, "indices", None)
            own = th.zeros_like(batch.rewards[..., 0], dtype=th.int64) if own is None else own
            indices.append(own + (list(self.shares).index(name) << _SOURCE_BITS))
        return WeightedSamples(**columns, indices=th.cat(indices, dim))

    def update_priorities(self, indices: th.Tensor, priorities: th.Tensor) -> None:
        """Pass priorities on to the prioritized among the sources; see ``PrioritizedReplayBuffer``."""
        indices, priorities = indices.flatten(), priorities.flatten()
        source = indices >> _SOURCE_BITS
        for number, name in enumerate(self.shares):
            buffer: Any = self.sources.get(name)
            if hasattr(buffer, "update_priorities"):
                own = source == number
                buffer.update_priorities(indices[own] & ((1 << _SOURCE_BITS) - 1), priorities[own])

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per source: transitions held, its share now, and the share of all rows drawn so far."""
        drawn = max(sum(self.n_drawn.values()), 1)
        shares = self.present_shares() if any(buffer.size() for buffer in self.sources.values()) else self._wanted()
        return {
            name: {
                "size": self.sources[name].size() * self.sources[name].n_envs if name in self.sources else 0,
                "share": shares[name],
                "drawn": self.n_drawn[name] / drawn,
            }
            for name in self.shares
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._device = usable_device(self._device)

    def state_dict(self) -> dict[str, Any]:
        """Everything all sources hold, as CPU tensors and numbers."""
        return {
            "sources": {name: get_arrays(buffer) for name, buffer in self.sources.items() if name not in self.fixed},
            "fixed": {
                name: buffer.generator.get_state()
                for name, buffer in self.sources.items()
                if name in self.fixed and isinstance(buffer, TensorReplayBuffer)
            },
            "n_added": self.n_added,
            "n_drawn": dict(self.n_drawn),
            "carried": dict(self._carried),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Put back what ``state_dict`` returned.

        :raises ValueError: if a source is missing or does not fit
        """
        missing = state["sources"].keys() - self.sources.keys()
        if missing:
            raise ValueError(f"the saved mixture has sources {sorted(missing)}, which this one lacks: call set_source first")
        for name, source in state["sources"].items():
            set_arrays(self.sources[name], source)
        for name, random in state["fixed"].items():
            source = self.sources.get(name)
            if isinstance(source, TensorReplayBuffer):
                set_generator_state(source.generator, random)
        self.n_added, self.n_drawn, self._carried = state["n_added"], dict(state["n_drawn"]), dict(state["carried"])


def _form(space: spaces.Space) -> Any:
    """What must agree between sources: kind and shape, not bounds."""
    if isinstance(space, spaces.Dict):
        return {key: _form(item) for key, item in space.items()}
    number = int(space.n) if isinstance(space, spaces.Discrete) else None
    return type(space), space.shape, number


def _cat(values: list[Any], dim: int) -> Any:
    if isinstance(values[0], dict):
        return {key: th.cat([value[key] for value in values], dim) for key in values[0]}
    return th.cat(values, dim)


def _or_full(value: th.Tensor | None, like: th.Tensor, number: float) -> th.Tensor:
    return th.full_like(like, number) if value is None else value


def _weights(parts: list[th.Tensor], dim: int) -> th.Tensor:
    """Of the sources' rows, in proportion to each source's mean."""
    weights = th.cat([part / part.mean(dim, keepdim=True) for part in parts], dim)
    return weights / weights.amax(dim, keepdim=True)
