"""
Time and memory of replay and rollout buffers: sb3_pgr, SB3, TorchRL and cpprb in one run.

    python benchmarks/buffer_speed.py                 # CPU
    python benchmarks/buffer_speed.py --device cuda   # storage and batches on the GPU

One million rows of observation 17 and action 6, and as many rows of 84 x 84 x 4 images as fit. Contenders take turns,
round by round, so that the machine's moods hit all of them alike; reported are medians over the rounds, in microseconds
a call. TorchRL's prioritized replay needs its C++ extension, which fits one version of torch only; peers that are not
installed are left out. A batch is what each library's user gets: tensors from sb3_pgr, SB3 and TorchRL, numpy arrays
from cpprb (no conversion is counted). Writes ``benchmarks/results/buffer_speed_<device>.json``.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from provenance import RESULTS, provenance
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer, RolloutBuffer

from sb3_pgr.buffers import PrioritizedReplayBuffer, TensorReplayBuffer, TensorRolloutBuffer

OBS, ACT = spaces.Box(-1, 1, (17,)), spaces.Box(-1, 1, (6,))
STACK, SIDE = 4, 84
IMAGE = spaces.Box(0, 255, (STACK, SIDE, SIDE), np.uint8)
OURS, SHARED, SB3, TORCHRL, CPPRB = "sb3_pgr", "sb3_pgr, frames stored once", "SB3", "TorchRL", "cpprb"
BATCH, STEPS = 256, 20

Contenders = dict[str, Callable[[], Any]]


def transitions(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(rows + 1, 17)).astype(np.float32)
    action, reward = rng.uniform(-1, 1, (rows, 6)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    return dict(obs=obs[:-1], next_obs=obs[1:], action=action, reward=reward, done=(np.arange(rows) % 1000 == 999))


def filled_sb3(space: spaces.Box, data: dict[str, np.ndarray], device: str) -> ReplayBuffer:
    buffer = ReplayBuffer(len(data["reward"]), space, ACT, device)
    for name, source in (("observations", "obs"), ("next_observations", "next_obs"), ("actions", "action")):
        getattr(buffer, name)[:, 0] = data[source]
    buffer.rewards[:, 0], buffer.dones[:, 0], buffer.full = data["reward"], data["done"], True
    return buffer


def filled_torchrl(data: dict[str, np.ndarray], device: str, prioritized: bool = False) -> Any:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, PrioritizedSampler, TensorDictReplayBuffer

    rows = len(data["reward"])
    extra = dict(sampler=PrioritizedSampler(rows, 0.6, 0.4), priority_key="td_error") if prioritized else {}
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(rows, device=device), batch_size=BATCH, **extra)
    buffer.extend(TensorDict({name: th.from_numpy(value) for name, value in data.items()}, batch_size=[rows]))
    return buffer


def filled_cpprb(data: dict[str, np.ndarray], prioritized: bool = False) -> Any:
    import cpprb

    fields = {name: dict(shape=value.shape[1:] or 1, dtype=value.dtype) for name, value in data.items()}
    buffer = (cpprb.PrioritizedReplayBuffer if prioritized else cpprb.ReplayBuffer)(len(data["reward"]), fields)
    buffer.add(**data)
    return buffer


def with_peers(contenders: Contenders, torchrl: Callable[[], Callable], cpprb: Callable[[], Callable] | None) -> Contenders:
    """Add the peers that are installed."""
    for name, build in ((TORCHRL, torchrl), (CPPRB, cpprb)):
        if build is None:
            continue
        try:
            contenders[name] = build()
        except (ImportError, RuntimeError) as error:
            print(f"{name} left out: {str(error).splitlines()[0]}")
    return contenders


def measure(contenders: Contenders, calls: int, rounds: int, device: str) -> dict[str, float]:
    """Median microseconds of a call."""

    def once(function: Callable[[], Any], n: int) -> float:
        if device == "cuda":
            th.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(n):
            function()
        if device == "cuda":
            th.cuda.synchronize()
        return (time.perf_counter() - started) / n * 1e6

    times: dict[str, list[float]] = {name: [] for name in contenders}
    for function in contenders.values():
        once(function, max(calls // 5, 2))
    for _ in range(rounds):
        for name, function in contenders.items():
            times[name].append(once(function, calls))
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def uniform(data: dict[str, np.ndarray], device: str, rounds: int) -> dict[str, Any]:
    rows = len(data["reward"])
    sb3, ours = filled_sb3(OBS, data, device), TensorReplayBuffer(rows, OBS, ACT, device)
    ours.extend(**data)

    def torchrl() -> Callable:
        buffer = filled_torchrl(data, device)
        return lambda: buffer.sample()

    def cpprb() -> Callable:
        buffer = filled_cpprb(data)
        return lambda: buffer.sample(BATCH)

    contenders = {OURS: lambda: ours.sample(BATCH), SB3: lambda: sb3.sample(BATCH)}
    contenders = with_peers(contenders, torchrl, cpprb)
    single = measure(contenders, 300, rounds, device)
    blocks: Contenders = {OURS: lambda: ours.sample_block(STEPS, BATCH)}
    for name in contenders.keys() - {OURS}:
        blocks[name] = lambda call=contenders[name]: [call() for _ in range(STEPS)]
    return {f"sample {BATCH}": single, f"sample {STEPS} x {BATCH}": measure(blocks, 20, rounds, device)}


def prioritized(data: dict[str, np.ndarray], device: str, rounds: int) -> dict[str, Any]:
    rows = len(data["reward"])
    ours = PrioritizedReplayBuffer(rows, OBS, ACT, device, alpha=0.6, beta=0.4)
    ours.extend(**data)
    errors = th.rand(BATCH, device=device)
    everything = th.rand(rows)
    ours.update_priorities(th.arange(rows), everything)

    def our_step() -> None:
        batch = ours.sample(BATCH)
        ours.update_priorities(batch.indices, errors)

    def torchrl() -> Callable:
        buffer = filled_torchrl(data, device, prioritized=True)
        buffer.update_priority(th.arange(rows), everything)

        def step() -> None:
            batch = buffer.sample()
            buffer.update_priority(batch["index"], errors)

        step()
        return step

    def cpprb() -> Callable:
        buffer, host_errors = filled_cpprb(data, prioritized=True), errors.cpu().numpy()
        buffer.update_priorities(np.arange(rows), everything.numpy())

        def step() -> None:
            batch = buffer.sample(BATCH, beta=0.4)
            buffer.update_priorities(batch["indexes"], host_errors)

        return step

    contenders = with_peers({OURS: our_step}, torchrl, cpprb)
    return {f"prioritized sample + update {BATCH}": measure(contenders, 100, rounds, device)}


def adding(device: str, rounds: int, n_envs: int) -> dict[str, Any]:
    rows = 100_000
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(n_envs, 17)).astype(np.float32), rng.uniform(-1, 1, (n_envs, 6)).astype(np.float32)
    step = obs, obs.copy(), action, np.ones(n_envs, np.float32), np.zeros(n_envs, bool), [{} for _ in range(n_envs)]
    names = ("obs", "next_obs", "action", "reward", "done")
    contenders: Contenders = {}
    for name, cls in ((OURS, TensorReplayBuffer), (SB3, ReplayBuffer)):
        buffer = cls(rows, OBS, ACT, device, n_envs=n_envs)
        contenders[name] = lambda buffer=buffer: buffer.add(*step)

    def torchrl() -> Callable:
        from tensordict import TensorDict

        buffer = filled_torchrl({name: np.repeat(value[:1], 2, 0) for name, value in zip(names, step, strict=False)}, device)

        def add() -> None:
            fields = {name: th.from_numpy(value) for name, value in zip(names, step, strict=False)}
            buffer.extend(TensorDict(fields, batch_size=[n_envs]))

        return add

    def cpprb() -> Callable:
        buffer = filled_cpprb({name: np.repeat(value[:1], rows, 0) for name, value in zip(names, step, strict=False)})
        return lambda: buffer.add(**dict(zip(names, step, strict=False)))

    contenders = with_peers(contenders, torchrl, cpprb)
    return {f"add, {n_envs} environment{'s' if n_envs > 1 else ''}": measure(contenders, 1000, rounds, device)}


def extending(data: dict[str, np.ndarray], device: str) -> dict[str, Any]:
    """Time for a million rows; SB3's loop over rows is timed on a hundredth of them."""
    rows = len(data["reward"])
    ours, sb3 = TensorReplayBuffer(rows, OBS, ACT, device), ReplayBuffer(rows, OBS, ACT, device)
    started = time.perf_counter()
    ours.extend(**data)
    seconds = time.perf_counter() - started
    part = {name: value[: rows // 100, None] for name, value in data.items()}
    started = time.perf_counter()
    sb3.extend(*part.values(), [[{}]] * (rows // 100))
    return {f"extend by {rows} rows": {OURS: round(seconds * 1e6), SB3: round((time.perf_counter() - started) * 1e8)}}


def images(rows: int, device: str, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Frame-stacked images in episodes of 250 steps."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (rows + STACK, SIDE, SIDE), np.uint8)
    stacked = np.lib.stride_tricks.sliding_window_view(frames, STACK, axis=0).transpose(0, 3, 1, 2)
    small = transitions(rows)
    data = small | dict(obs=stacked[:-1][:rows], next_obs=stacked[1:][:rows])
    sb3, ours = filled_sb3(IMAGE, data, device), TensorReplayBuffer(rows, IMAGE, ACT, device)
    shared = TensorReplayBuffer(rows, IMAGE, ACT, device, optimize_memory_usage=True, frame_stack=STACK)
    for start in range(0, rows, 1000):
        part = {name: value[start : start + 1000] for name, value in data.items()}
        ours.extend(**part)
        shared.extend(**part)
    contenders: Contenders = {
        OURS: lambda: ours.sample(BATCH),
        SHARED: lambda: shared.sample(BATCH),
        SB3: lambda: sb3.sample(BATCH),
    }

    def torchrl() -> Callable:
        buffer = filled_torchrl({name: np.ascontiguousarray(value) for name, value in data.items()}, device)
        return lambda: buffer.sample()

    def cpprb() -> Callable:
        buffer = filled_cpprb({name: np.ascontiguousarray(value) for name, value in data.items()})
        return lambda: buffer.sample(BATCH)

    times = {f"sample {BATCH} images": measure(with_peers(contenders, torchrl, cpprb), 5, rounds, device)}
    names = ("obs", "next_obs", "action", "reward", "done")
    episode = [[np.ascontiguousarray(data[name][i : i + 1]) for name in names] for i in range(250)]

    def adder(buffer: Any) -> Callable:
        def add() -> None:  # consecutive steps, as an environment gives them
            for step in episode:
                buffer.add(*step, [{}])

        return add

    adders = measure({OURS: adder(ours), SHARED: adder(shared), SB3: adder(sb3)}, 4, rounds, device)
    times["add an image, 1 environment"] = {name: round(value / len(episode), 1) for name, value in adders.items()}
    memory = {
        "rows": rows,
        "bytes a row": {
            SB3: (sb3.observations.nbytes + sb3.next_observations.nbytes + sb3.actions.nbytes) // rows + 12,
            OURS: ours.nbytes // rows,
            SHARED: shared.nbytes // rows,
        },
    }
    return times, memory


def dict_memory(channels: int, stack: int, rows: int = 5_000) -> dict[str, Any]:
    """The same Dict observations in SB3's DictReplayBuffer and in ours, in episodes of 250 steps."""
    space = spaces.Dict({"image": spaces.Box(0, 255, (channels * stack, SIDE, SIDE), np.uint8)})
    theirs = DictReplayBuffer(rows, space, ACT, "cpu")
    ours = TensorReplayBuffer(rows, space, ACT, "cpu", optimize_memory_usage=True, frame_stack=stack)
    rng = np.random.default_rng(0)
    for i in range(2 * rows):
        if i % 250 == 0:
            obs = np.tile(rng.integers(0, 256, (1, channels, SIDE, SIDE), np.uint8), (1, stack, 1, 1))
        new = rng.integers(0, 256, (1, channels, SIDE, SIDE), np.uint8)
        next_obs = np.concatenate([obs[:, channels:], new], 1)
        done = np.array([i % 250 == 249])
        ours.add({"image": obs}, {"image": next_obs}, np.zeros((1, 6)), np.ones(1), done, [{}])
        obs = next_obs
    arrays = theirs.observations["image"], theirs.next_observations["image"], theirs.actions
    reserved = sum(array.nbytes for array in arrays) + 3 * 4 * rows
    return {"SB3 DictReplayBuffer": reserved // rows, OURS: ours.nbytes // rows, "ratio": round(ours.nbytes / reserved, 3)}


def advantages(device: str, rounds: int) -> dict[str, Any]:
    contenders: Contenders = {}
    buffers = []
    last, dones = th.zeros(16), np.zeros(16, bool)
    for name, cls in ((OURS, TensorRolloutBuffer), (SB3, RolloutBuffer)):
        buffer, rng = cls(2048, OBS, ACT, device, gae_lambda=0.95, n_envs=16), np.random.default_rng(0)
        buffer.reset()
        for _ in range(2048):
            value, log_prob = th.from_numpy(rng.normal(size=(2, 16))).float()
            obs, action = rng.normal(size=(16, 17)), rng.normal(size=(16, 6))
            buffer.add(obs, action, rng.normal(size=16), rng.random(16) < 0.01, value, log_prob)
        buffers.append(buffer)
        contenders[name] = lambda buffer=buffer: buffer.compute_returns_and_advantage(last, dones)
    times = {"GAE 2048 x 16": measure(contenders, 10, rounds, device)}
    ours, theirs = (buffer.advantages for buffer in buffers)
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    minibatches = {name: lambda buffer=buffer: list(buffer.get(64)) for name, buffer in zip((OURS, SB3), buffers, strict=True)}
    times["an epoch of minibatches of 64, 2048 x 16"] = measure(minibatches, 2, rounds, device)
    return times | {"GAE, largest difference to SB3 (relative to the largest advantage)": {OURS: difference}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--image-rows", type=int, default=40_000, help="each of the buffers takes 56 KB a row")
    args = parser.parse_args()

    data = transitions(args.rows)
    times: dict[str, Any] = {}
    for part in (uniform, prioritized):
        times |= part(data, args.device, args.rounds)
        gc.collect()
    for n_envs in (1, 16):
        times |= adding(args.device, args.rounds, n_envs)
    times |= extending(data, args.device)
    times |= advantages(args.device, args.rounds)
    image_times, memory = images(args.image_rows, args.device, args.rounds)
    times |= image_times
    memory["bytes a row, single frames 84 x 84 x 3"] = dict_memory(3, 1)
    memory["bytes a row, stacks of 4 frames 84 x 84"] = dict_memory(1, 4)

    names = [OURS, SHARED, SB3, TORCHRL, CPPRB]
    print(f"| microseconds a call | {' | '.join(names)} | SB3 / sb3_pgr |")
    for what, row in times.items():
        ratio = f"{row[SB3] / row[OURS]:.1f}" if SB3 in row and OURS in row else ""
        print(f"| {what} | {' | '.join(str(row.get(name, '')) for name in names)} | {ratio} |")
    print(json.dumps(memory, indent=2))
    path = RESULTS / f"buffer_speed_{args.device}.json"
    result = {"provenance": provenance((0,)), "threads": th.get_num_threads(), "microseconds": times, "memory": memory}
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
