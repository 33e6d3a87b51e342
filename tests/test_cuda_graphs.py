"""
Blocks of updates as CUDA graphs: what a graph forbids is nowhere in an update, which any machine can tell, and a graph does
what the eager update does, which takes a GPU.
"""

from functools import partial

import pytest
import torch as th
from reach import SMALL, Reach, demonstrations
from test_compiled_updates import OFFLINE, data, schedule, weights
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_pgr import BC, BCQ, CQL, PGRSAC, REDQ, HybridSAC
from sb3_pgr.common.engine import CudaGraph
from sb3_pgr.generative.imagination import Imagination


def offline(algorithm, **kwargs):
    kwargs = dict(policy_kwargs=dict(net_arch=[16]), learning_rate=schedule, batch_size=32, seed=0) | kwargs
    if algorithm is BCQ:
        kwargs["policy_kwargs"]["vae_arch"] = [16]
    if algorithm is CQL:
        kwargs |= dict(lagrange_threshold=1.0, bc_steps=20)
    return algorithm("MlpPolicy", dataset=data(), block_size=10, **kwargs)


def redq(**kwargs):
    kwargs = dict(learning_starts=50, gradient_steps=20, learning_rate=schedule, buffer_size=500, seed=0) | kwargs
    return REDQ("MlpPolicy", "Pendulum-v1", **kwargs)


def pgrsac(**kwargs):
    tiny = dict(train_steps=30, denoiser_kwargs=dict(width=16, n_blocks=1))
    replay = dict(retrain_every=20, num_samples=200, generator=tiny, replay_buffer_kwargs=dict(warmup=60))
    return PGRSAC("MlpPolicy", "Pendulum-v1", learning_starts=50, learning_rate=schedule, seed=0, **replay, **kwargs)


def hybrid(images=False, **kwargs):
    settings = SMALL | dict(learning_rate=schedule, demonstrations=demonstrations(images=images)) | kwargs
    policy = "MultiInputPolicy" if images else "MlpPolicy"
    return HybridSAC(policy, Reach(images=images), setup_mode="single-arm-learned-gripper", **settings)


OFFLINE_NAMES = {algorithm.__name__ for algorithm in OFFLINE}
MODELS = {algorithm.__name__: (partial(offline, algorithm), 40) for algorithm in OFFLINE}
MODELS |= {
    "REDQ": (redq, 53),
    "PGRSAC": (pgrsac, 90),
    "HybridSAC": (hybrid, 20),
    "HybridSAC of images": (partial(hybrid, images=True), 20),
}
every = pytest.mark.parametrize("name", MODELS)


class Operations(TorchDispatchMode):
    """Collects operations that wait for the device or bring numbers to it: a graph can hold none of them."""

    FORBIDDEN = ("aten.lift_fresh", "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")

    def __init__(self):
        super().__init__()
        self.forbidden = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func is th.ops.aten.index.Tensor and any(i is not None and i.dtype == th.bool for i in args[1])
        if masked or str(func).startswith(self.FORBIDDEN):
            self.forbidden.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "operation", [lambda x: x[:, [0, 1]], lambda x: x[x > 0], lambda x: x.sum().item(), lambda x: th.tensor(1)]
)
def test_forbidden_operations_are_seen(operation):
    with Operations() as seen:
        operation(th.ones(2, 2))
    assert seen.forbidden


@every
def test_updates_can_be_captured(name, monkeypatch):
    make, steps = MODELS[name]
    model, found, calls = make(device="cpu"), set(), []
    original = model._update

    def update(batch, flag):
        with Operations() as seen:
            metrics = original(batch, flag)
        found.update(seen.forbidden)
        calls.append(flag)
        return metrics

    def no_step(self):
        """On a GPU, steps of Adam are capturable: PyTorch sees to that."""

    no_step.hooked = True  # or an AdamW that is made meanwhile would keep it for good
    monkeypatch.setattr(th.optim.Adam, "step", no_step)
    monkeypatch.setattr(model, "_update", update)
    model.learn(steps)
    assert calls and not found


@every
def test_graphs_need_a_gpu(name):
    with pytest.raises(ValueError, match="cuda_graph=True needs a CUDA device, but the model is on 'cpu'"):
        MODELS[name][0](device="cpu", cuda_graph=True)


@pytest.mark.gpu
@every
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 1e-2)])
def test_graphs_do_what_eager_updates_do(name, precision, tolerance, monkeypatch):
    make, steps = MODELS[name]
    replays = []
    original = CudaGraph.replay
    monkeypatch.setattr(CudaGraph, "replay", lambda *args: replays.append(1) or original(*args))
    models = [make(device="cuda", precision=precision, cuda_graph=graph).learn(steps) for graph in (False, True)]
    assert replays
    eager, graph = map(weights, models)
    far = (graph - eager).abs() > tolerance * (1 + eager.abs())
    # Rows that a generator imagines differ by rounding, and Adam magnifies that where gradients are almost 0.
    assert far.float().mean() <= (3e-4 if name == "PGRSAC" else 0)


@pytest.mark.gpu
@every
def test_models_with_graphs_are_saved_and_go_on(name, tmp_path):
    make, steps = MODELS[name]
    model = make(device="cuda", cuda_graph=True).learn(steps)
    model.save(tmp_path / "model.zip")
    before = weights(model).clone()
    env = None if name in OFFLINE_NAMES else model.get_env()
    for device in ("cuda", "cpu"):
        loaded = type(model).load(tmp_path / "model.zip", env=env, device=device)
        th.testing.assert_close(weights(loaded).cpu(), before.cpu())
        if name in OFFLINE_NAMES:
            loaded.set_dataset(data())
        loaded.learn(steps, reset_num_timesteps=False)
        assert not th.equal(weights(loaded).cpu(), before.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", [BC, CQL])
def test_compiled_updates_in_a_graph(algorithm, precision):
    models = [
        offline(algorithm, device="cuda", precision=precision, compile=on, cuda_graph=on).learn(40) for on in (False, True)
    ]
    tolerance = 1e-3 if precision == "fp32" else 1e-2
    th.testing.assert_close(weights(models[0]), weights(models[1]), rtol=tolerance, atol=tolerance)


def transitions(n, random):
    widths = dict(observations=3, actions=2, rewards=1, next_observations=3, dones=1, episode_ends=1)
    rows = {name: th.rand(n, width, generator=random, device=random.device) for name, width in widths.items()}
    return rows | {name: rows[name].round() for name in ("dones", "episode_ends")}


def test_fits_are_eager_without_a_gpu():
    random, states = th.Generator().manual_seed(0), []
    real = transitions(200, random)
    for graph in (False, True):
        settings = dict(train_steps=3, dynamics_steps=3, cuda_graph=graph)
        imagination = Imagination(3, 2, generator=settings, seed=1)
        imagination.relevance.update(real)
        imagination.imagine(real, 50)
        states.append(imagination.state_dict()["generator"]["network"])
    th.testing.assert_close(states[1], states[0], rtol=0, atol=0)


@pytest.mark.gpu
def test_fits_as_graphs_do_what_eager_ones_do(monkeypatch):
    random = th.Generator("cuda").manual_seed(0)
    real, batches = transitions(500, random), [transitions(256, random) for _ in range(20)]
    replays, original = [], CudaGraph.replay
    monkeypatch.setattr(CudaGraph, "replay", lambda *args: replays.append(1) or original(*args))
    states = []
    for graph in (False, True):
        settings = dict(train_steps=30, warm_steps=30, dynamics_steps=30, precision="fp32", cuda_graph=graph)
        imagination = Imagination(3, 2, generator=settings, device="cuda")
        for start in (0, 10):
            for batch in batches[start : start + 10]:
                imagination.relevance.update(batch)
            imagination.imagine(real, 50)
            imagination.load_state_dict(imagination.state_dict())  # graphs are made anew where tensors move
        states.append(imagination.state_dict())
    assert len(replays) >= 2 * (9 + 29 + 29)
    for part in ("generator", "dynamics", "termination", "relevance"):
        eager, graph = (th.cat([value.flatten() for value in state[part]["network"].values()]) for state in states)
        far = (graph - eager).abs() > 1e-3 * (1 + eager.abs())
        assert far.float().mean() <= 3e-4  # Adam magnifies rounding where gradients are almost 0
