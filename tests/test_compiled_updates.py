"""An update compiled into one graph does what the eager one does."""

from functools import partial

import numpy as np
import pytest
import torch as th
from reach import SMALL, Reach, demonstrations

from sb3_pgr import BC, BCQ, CQL, IQL, REDQ, TD3BC, HybridSAC, TransitionGenerator
from sb3_pgr.common.engine import UpdateEngine
from sb3_pgr.common.optimizers import gradients_of, is_plain_adam, make_traceable, optimizer_step

OFFLINE = [BC, BCQ, CQL, IQL, TD3BC]


def data():
    rng = np.random.default_rng(0)
    n = 200
    return {
        "observations": rng.normal(size=(n, 3)), "actions": np.tanh(rng.normal(size=(n, 2))), "rewards": rng.normal(size=n),
        "next_observations": rng.normal(size=(n, 3)), "terminals": np.arange(n) % 50 == 49, "timeouts": np.zeros(n, bool),
    }  # fmt: skip


def schedule(progress):
    return 1e-3 * progress


def weights(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.fixture
def traced(monkeypatch):
    """Traces graphs and runs them without generating code, which takes long; breaks in a graph are errors."""
    graphs = []

    def backend(graph, inputs, options):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(th, "compile", partial(th.compile, backend=backend, fullgraph=True))
    return graphs


@pytest.mark.parametrize("algorithm", OFFLINE)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_offline_updates(algorithm, precision, traced):
    kwargs = dict(policy_kwargs=dict(net_arch=[16]), learning_rate=schedule, batch_size=32, seed=0, device="cpu")
    kwargs["precision"] = precision
    if algorithm is BCQ:
        kwargs["policy_kwargs"]["vae_arch"] = [16]
    if algorithm is CQL:
        kwargs |= dict(lagrange_threshold=1.0, bc_steps=12)
    models = [algorithm("MlpPolicy", dataset=data(), compile=compile, **kwargs).learn(40) for compile in (False, True)]
    assert traced
    th.testing.assert_close(weights(models[0]), weights(models[1]), rtol=1e-4, atol=1e-5 if precision == "fp32" else 1e-3)


def test_values_are_not_rounded_in_bfloat16():
    """Advantages are small differences of large values."""
    for model, values in (
        (IQL("MlpPolicy", dataset=data(), device="cpu"), lambda policy, obs: policy.value(obs)),
        (IQL("MlpPolicy", dataset=data(), device="cpu"), lambda policy, obs: policy.critic.q_values(obs, th.ones(200, 2))),
        (gripping(), lambda policy, obs: policy.critic.grasp_values(policy.critic.encode(obs))),
    ):
        obs = th.randn(200, 3)
        with th.no_grad():
            for name, parameter in model.policy.named_parameters():
                if name.endswith("bias") and parameter.numel() in (1, 2, 3) and not name.startswith("actor"):
                    parameter += 100
            exact = values(model.policy, obs)
            with th.autocast("cpu", th.bfloat16):
                rounded = values(model.policy, obs)
        assert exact.mean() > 90 and rounded.dtype == th.float32
        assert (rounded - exact).abs().max() < 0.02  # neighbours in bfloat16 are 0.5 apart


def gripping():
    return HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", **SMALL)


@pytest.mark.parametrize("arguments", [dict(), dict(policy_kwargs=dict(layer_norm=True), policy_delay=2, target_mode="mean")])
def test_redq_updates(arguments, traced):
    kwargs = (
        dict(learning_starts=50, gradient_steps=4, learning_rate=schedule, batch_size=32, seed=0, device="cpu") | arguments
    )
    kwargs["policy_kwargs"] = dict(net_arch=[16]) | kwargs.get("policy_kwargs", {})
    models = [REDQ("MlpPolicy", "Pendulum-v1", compile=compile, **kwargs).learn(58) for compile in (False, True)]
    assert traced
    th.testing.assert_close(weights(models[0]), weights(models[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [False, True])
def test_hybrid_sac_updates(images, traced):
    kwargs = SMALL | dict(learning_rate=schedule, demonstrations=demonstrations(images=images, grasp_penalty=np.zeros(40)))
    policy = "MultiInputPolicy" if images else "MlpPolicy"
    models = [
        HybridSAC(policy, Reach(images=images), setup_mode="single-arm-learned-gripper", compile=on, **kwargs).learn(16)
        for on in (False, True)
    ]
    assert traced
    th.testing.assert_close(weights(models[0]), weights(models[1]), rtol=1e-4, atol=1e-4)  # a tenth of a step


def test_more_models_than_variants_are_allowed(traced):
    """Dynamo gives up on a code object after eight variants, and would run the others eagerly."""
    for seed in range(10):
        TD3BC("MlpPolicy", dataset=data(), compile=True, policy_kwargs=dict(net_arch=[4]), seed=seed, device="cpu").learn(2)
    assert len(traced) == 2 * 10  # with and without the actor


def test_a_loaded_model_goes_on(traced, tmp_path):
    """Optimiser states are then other tensors than those that the graph knew."""
    make = partial(TD3BC, "MlpPolicy", dataset=data(), compile=True, policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu")
    model = make().learn(20)
    model.save(tmp_path / "model.zip")
    before = weights(model)
    model.set_parameters(str(tmp_path / "model.zip"))
    th.testing.assert_close(weights(model), before)
    loaded = TD3BC.load(tmp_path / "model.zip", device="cpu")
    loaded.set_dataset(data())
    for one in (model, loaded):
        one.replay_buffer.sources["dataset"].generator.manual_seed(3)
        th.manual_seed(3)
        one.learn(20, reset_num_timesteps=False)
    assert not th.equal(weights(model), before)
    th.testing.assert_close(weights(model), weights(loaded))
    state = model.policy.critic.optimizer.state_dict()["state"][0]
    assert float(state["step"]) == 40


def test_other_optimizers_step_outside_of_the_graph():
    module = th.nn.Linear(2, 1)
    optimizer = th.optim.SGD(module.parameters(), lr=0.1)
    assert not is_plain_adam(optimizer) and not is_plain_adam(th.optim.Adam(module.parameters(), weight_decay=0.1))
    make_traceable(optimizer)
    kwargs = dict(policy_kwargs=dict(net_arch=[8], optimizer_class=th.optim.SGD), seed=0, device="cpu")
    models = [BC("MlpPolicy", dataset=data(), compile=compile, **kwargs).learn(4) for compile in (False, True)]
    th.testing.assert_close(weights(models[0]), weights(models[1]), rtol=1e-4, atol=1e-5)


def test_gradients_are_of_the_optimizers_parameters_alone():
    first, second, unused = (th.nn.Parameter(th.tensor(2.0)) for _ in range(3))
    optimizer = th.optim.Adam([first, unused], lr=0.1)
    assert [None if g is None else float(g) for g in gradients_of(optimizer, first * second)] == [2.0, None]
    optimizer_step(optimizer, first * second)
    assert second.grad is None and first.item() == pytest.approx(1.9) and unused.item() == 2.0


def test_compiled_code():
    """The real compiler, once."""
    engine = UpdateEngine(th.device("cpu"), compile=True)
    layer = th.nn.Linear(2, 1)
    optimizer = th.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    reference = th.nn.Linear(2, 1)
    reference.load_state_dict(layer.state_dict())
    theirs = th.optim.Adam(reference.parameters(), lr=0.1)

    def update(batch, flag):
        loss = layer(batch["x"]).pow(2).mean()
        optimizer_step(optimizer, loss)
        return {"loss": loss.detach()}

    block = {"x": th.randn(5, 7, 2, generator=th.Generator().manual_seed(0))}
    engine.run(update, block, [True] * 5, [optimizer])
    for x in block["x"]:
        theirs.zero_grad()
        reference(x).pow(2).mean().backward()
        theirs.step()
    th.testing.assert_close(layer.weight, reference.weight)


def test_generator(traced):
    drawn = []
    real = {
        name: th.randn(64, width, generator=th.Generator().manual_seed(width))
        for name, width in (("observations", 3), ("actions", 2), ("rewards", 1), ("next_observations", 3))
    }
    real["dones"] = th.zeros(64, 1)
    for compile in (False, True):
        config = dict(compile=compile, train_steps=30, denoiser_kwargs=dict(width=16, n_blocks=1), precision="fp32")
        generator = TransitionGenerator(3, 2, config=config, seed=1)
        for _ in range(2):
            generator.fit(real, real["rewards"][:, 0])
        drawn.append(generator.sample(10, real["rewards"][:10, 0], {name: rows[:10] for name, rows in real.items()}))
    assert traced
    for name, rows in drawn[0].items():
        th.testing.assert_close(rows, drawn[1][name], rtol=1e-3, atol=1e-4)
