"""The models of GeMS, what they make of actions and observations, and the datasets recorded with them."""

import json
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gems_models import tiny_models
from gymnasium.utils.env_checker import check_env as gymnasium_check
from sb3_pgr.envs.errors import ModelError
from sb3_pgr.envs.gems import GemsEngine, draw_items
from sb3_pgr.envs.gems.belief import BeliefEncoder
from sb3_pgr.envs.gems.build import RandomLatents
from sb3_pgr.envs.gems.datasets import record, through_decoder
from sb3_pgr.envs.gems.env import GemsEnv
from sb3_pgr.envs.gems.extractor import HistoryExtractor
from sb3_pgr.envs.gems.logs import simulate
from sb3_pgr.envs.gems.model_files import BELIEF, SLATE_VAE, load_model, models_folder, save_model
from sb3_pgr.envs.gems.policies import ConstantSlate, EpsilonGreedyOracle, RandomSlates
from sb3_pgr.envs.gems.slate_vae import SlateVAE, train_slate_vae
from sb3_pgr.envs.gems.users import ACTIONS, OBSERVATIONS, make_users
from sb3_pgr.envs.gems.vector import GemsVecEnv
from sb3_pgr.envs.gems.world import make_engine
from stable_baselines3.common.env_checker import check_env as sb3_check

from sb3_pgr.common.evaluation import HELD_OUT_SEED


def small_env(**options):
    return GemsEnv("focused", "topdown", models=tiny_models()[0], **options)


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.filterwarnings("ignore:.*")
def test_checkers(actions, observations):
    env = small_env(actions=actions, observations=observations)
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env)


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_vector_environment_equals_single_ones(actions, observations):
    options = dict(actions=actions, observations=observations, horizon=6)
    vector = GemsVecEnv(3, models=tiny_models()[0], **options)
    vector.seed(5)
    singles = [small_env(**options) for _ in range(3)]
    together, alone = vector.reset(), [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
    vector.action_space.seed(0)
    for _ in range(9):
        for i, obs in enumerate(alone):
            for name in obs if isinstance(obs, dict) else [...]:
                of_all = together[name] if isinstance(obs, dict) else together
                np.testing.assert_allclose(of_all[i], obs[name], atol=1e-5)
        chosen = np.stack([vector.action_space.sample() for _ in range(3)])
        together, _, dones, _ = vector.step(chosen)
        alone = [env.step(action)[0] for env, action in zip(singles, chosen)]
        if dones[0]:
            alone = [env.reset()[0] for env in singles]


def test_loss_is_the_published_one():
    """Cross entropies and KL divergence, each a mean over its elements, in float64 from the definitions."""
    th.manual_seed(0)
    model = SlateVAE(50, 4, item_dim=3, latent_dim=5, hidden=(8, 6)).double()
    slates, clicks = th.randint(50, (7, 4)), th.rand(7, 4) < 0.4
    model.requires_grad_(False)
    mean, std = model.encode(slates, clicks)
    th.manual_seed(1)
    loss, parts = model.loss(slates, clicks, click_weight=0.3, kl_weight=0.7)
    th.manual_seed(1)  # the same noise
    items, clicked = model.logits(mean + std * th.randn_like(std))
    probabilities = items.softmax(2).gather(2, slates[..., None])
    cross = -probabilities.log().mean()
    p = clicked.sigmoid()
    binary = -(th.where(clicks, p.log(), (1 - p).log())).mean()
    normal, posterior = th.distributions.Normal(0, 1), th.distributions.Normal(mean, std)
    kl = th.distributions.kl_divergence(posterior, normal).mean()
    for value, expected in ((parts["items"], cross), (parts["clicks"], binary), (parts["kl"], kl)):
        assert value.item() == pytest.approx(float(expected), rel=2e-6)  # cross entropies are taken in float32
    assert loss.item() == pytest.approx(float(cross + 0.3 * binary + 0.7 * kl), rel=2e-6)


def test_decoding_takes_the_likeliest_items():
    model = SlateVAE()
    latents = np.random.default_rng(0).normal(size=(200, 32))
    with th.no_grad():
        logits = model.logits(th.as_tensor(latents, dtype=th.float32))[0].numpy()
    slates = model.decode(latents)
    best, chosen = logits.max(2), np.take_along_axis(logits, slates[..., None], 2)[..., 0]
    np.testing.assert_allclose(chosen, best, atol=1e-5)
    assert (slates == logits.argmax(2)).mean() > 0.999


def test_slates_are_learned():
    """Slates of three items that go together: more are decoded as shown than chance, or the most frequent, would."""
    generator = np.random.default_rng(0)
    slates = generator.integers(10, size=(4_000, 1)) * 3 + np.arange(3)
    clicks = np.zeros_like(slates, bool)
    embeddings = generator.normal(size=(30, 8)).astype(np.float32)
    learning = dict(epochs=40, batch_size=256, kl_weight=0.05, compile=False)
    model, scores = train_slate_vae(slates, clicks, embeddings, latent_dim=4, **learning)
    np.testing.assert_allclose(model.item_embedding.weight.std(correction=0), 1, rtol=1e-3)  # they are given, not learned
    assert scores["decoded_as_shown"] > 0.8
    points = model.latents(slates, clicks)
    assert ((points > model.low.numpy()) & (points < model.high.numpy())).mean() > 0.99
    np.testing.assert_allclose(model.to_latents(model.to_actions(points)), points, atol=1e-5)
    np.testing.assert_allclose(model.to_latents(-np.ones((1, 4)))[0], model.low, atol=1e-6)


def test_belief_by_steps_equals_belief_by_sequences():
    encoder = BeliefEncoder(n_items=40, slate_size=3, belief_dim=6).eval()
    generator = np.random.default_rng(0)
    slates, clicks = generator.integers(40, size=(5, 7, 3)), generator.random((5, 7, 3)) < 0.3
    with th.no_grad():
        whole = encoder(th.as_tensor(slates), th.as_tensor(clicks)).numpy()
    belief = np.zeros((5, 6), np.float32)
    for step in range(7):
        belief = encoder.step(belief, slates[:, step], clicks[:, step])
        np.testing.assert_allclose(belief, whole[:, step], atol=1e-6)


def test_belief_begins_anew_with_the_episode():
    env = small_env(observations="belief", horizon=3)
    first, _ = env.reset(seed=0)
    for _ in range(3):
        env.step(np.arange(10))
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)


def test_history_holds_the_last_slates():
    env = small_env(observations="history", history=3)
    env.reset(seed=0)
    for step in range(4):
        obs, *_, info = env.step(np.arange(10) + 10 * step)
    np.testing.assert_array_equal(obs["slates"], np.arange(10, 40))
    np.testing.assert_array_equal(obs["clicks"][-10:], info["clicks"])
    obs, _ = env.reset(seed=0)
    assert obs["seen"].tolist() == [0, 0, 1] and not obs["slates"][:20].any()


@pytest.mark.parametrize("observations", ["belief", "history"])
def test_observations_are_the_agents_own(observations):
    def second(spoil):
        env = small_env(observations=observations)
        obs, _ = env.reset(seed=0)
        if spoil:
            for part in obs.values() if isinstance(obs, dict) else [obs]:
                part[:] = 1
        return env.step(np.arange(10))[0]

    for clean, spoiled in zip(np.atleast_1d(second(False)), np.atleast_1d(second(True))):
        if isinstance(clean, dict):
            for name in clean:
                np.testing.assert_array_equal(clean[name], spoiled[name])
        else:
            np.testing.assert_array_equal(clean, spoiled)


def test_history_can_be_learned_from():
    from sb3_pgr import REDQ

    env = GemsVecEnv(2, horizon=8, models=tiny_models()[0], actions="latent", observations="history", history=2)
    kwargs = dict(features_extractor_class=HistoryExtractor, features_extractor_kwargs=dict(features_dim=8), net_arch=[8])
    model = REDQ("MultiInputPolicy", env, learning_starts=8, gradient_steps=2, n_critics=2, policy_kwargs=kwargs, device="cpu")
    before = model.actor.features_extractor.item_embedding.weight.clone()
    model.learn(40)
    assert (model.actor.features_extractor.item_embedding.weight != before).any()


def test_privileged_observations_tell_the_state():
    env = small_env(observations="privileged")
    env.reset(seed=2)
    for _ in range(20):
        obs, *_, info = env.step(np.argsort(-env.engine.scores()[0])[:10])
    np.testing.assert_allclose(obs[:20], info["preferences"], atol=1e-6)
    np.testing.assert_array_equal(obs[20:30] > 0, info["bored"])
    assert obs[-1] == pytest.approx(0.2) and info["bored"].any()


def test_top_k_finds_the_nearest_items():
    env = small_env(actions="top_k")
    actions, items = env.users.actions, env.engine.items.embeddings
    action = 2 * (items[[123]] - actions.low) / (actions.high - actions.low) - 1
    slate = actions.to_slates(action)[0]
    products = items @ items[123]
    np.testing.assert_array_equal(slate, np.argsort(-products, kind="stable")[:10])
    assert slate[0] == 123


@pytest.mark.parametrize("actions", ["latent", "top_k", "k_head"])
def test_bad_actions_are_named(actions):
    env = small_env(actions=actions)
    env.reset(seed=0)
    action = env.action_space.sample()
    action[3] = np.nan
    with pytest.raises(ValueError, match="number 3 is nan"):
        env.step(action)
    with pytest.raises(ValueError, match="shape"):
        env.step(action[:5])
    np.testing.assert_array_equal(  # beyond the box is its border
        env.users.actions.to_slates(np.full((1, *action.shape), 7.0)), env.users.actions.to_slates(np.ones((1, *action.shape)))
    )


def test_missing_model_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_PGR_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match=r"sb3-pgr gems build --env gems/diffuse_mix-v0"):
        gym.make("gems/diffuse_mix_latent-v0")
    assert models_folder("diffuse", "mix") == tmp_path / "gems" / "diffuse_mix"


def test_wrong_models_are_refused(tmp_path):
    folder = tiny_models()[0]
    other = GemsEngine(draw_items(seed=77))
    with pytest.raises(ModelError, match=r"of another world: items .*the command"):
        load_model(SlateVAE, folder / SLATE_VAE, other, "the command")
    shorter = make_engine("focused", "topdown", slate_size=8)
    with pytest.raises(ModelError, match="slate_size 10, not 8"):
        load_model(SlateVAE, folder / SLATE_VAE, shorter, "the command")
    with pytest.raises(ModelError, match="not a BeliefEncoder"):
        load_model(BeliefEncoder, folder / SLATE_VAE, GemsEngine(draw_items()), "the command")
    (tmp_path / "cut.pt").write_bytes((folder / SLATE_VAE).read_bytes()[:5_000])
    with pytest.raises(ModelError, match="the command"):
        load_model(SlateVAE, tmp_path / "cut.pt", other, "the command")
    th.save({"kind": "SlateVAE", "sizes": Path("/")}, tmp_path / "evil.pt")  # an object, which must not be unpickled
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(SlateVAE, tmp_path / "evil.pt", other, "the command")


def test_models_of_another_world_are_refused():
    folder = tiny_models()[0]
    for items, world, options, message in (
        (
            "diffuse",
            "topdown",
            {},
            "items .*Name another folder, or build with: sb3-pgr gems build --env gems/diffuse_topdown-v0",
        ),
        ("focused", "mix", {}, "click_model topdown, not mixed"),
        ("focused", "topdown", {"diversity_penalty": 5.0}, r"diversity_penalty 1.0, not 5.0.*build_models\(engine, FOLDER\)"),
    ):
        with pytest.raises(ModelError, match=message):
            make_users(items, world, "latent", models=folder, **options)
    make_users("focused", "topdown", "latent", models=folder, boredom_threshold=3)  # not what models are of


def test_other_models_than_those_of_an_agent_are_refused(tmp_path):
    folder = tiny_models()[0]
    users = make_users("focused", "topdown", "latent", "belief", folder)
    known = users.fingerprints
    assert set(known) == {SLATE_VAE, BELIEF} and known[SLATE_VAE] != known[BELIEF]
    users.actions.model.low -= 0.1
    save_model(users.actions.model, tmp_path / SLATE_VAE, users.engine)
    save_model(users.observations.encoder, tmp_path / BELIEF, users.engine)
    for actions, observations in (("latent", "slate"), ("top_k", "belief"), ("slate", "slate")):
        kept = make_users("focused", "topdown", actions, observations, folder, fingerprints=known)
        assert kept.fingerprints.items() <= known.items()
    make_users("focused", "topdown", "top_k", "belief", tmp_path, fingerprints=known)  # the same encoder
    with pytest.raises(
        ModelError, match=rf"{SLATE_VAE} is not the model.*{users.fingerprints[SLATE_VAE]}, not {known[SLATE_VAE]}"
    ):
        make_users("focused", "topdown", "latent", "belief", tmp_path, fingerprints=known)


def test_bounds_are_saved(tmp_path):
    engine = GemsEngine(draw_items())
    model = SlateVAE()
    model.low.fill_(-2.5)
    save_model(model, tmp_path / "model.pt", engine)
    loaded = load_model(SlateVAE, tmp_path / "model.pt", engine, "")
    np.testing.assert_allclose(loaded.to_latents(-np.ones((1, 32))), -2.5)


def test_build_says_what_it_made():
    folder, summary = tiny_models()
    assert json.loads((folder / "build.json").read_text()) == summary
    assert set(summary["belief_explained_variance"]) == {"clicks", "bored", "preferences"}
    assert summary["slate_vae"]["items"] == pytest.approx(math.log(1000), abs=0.1)  # so few updates leave it at chance
    assert summary["items"] == GemsEngine(draw_items()).items.fingerprint


def test_logs_have_what_happened():
    engine = GemsEngine(draw_items())
    logs = simulate(engine, EpsilonGreedyOracle(0.5), np.arange(30, dtype=np.uint64))
    assert logs.slates.shape == (30, 101, 10) and (logs.slates[:, 0] == engine.first_slate).all()
    assert 70 < logs.returns.mean() < 130
    both = logs + logs[:5]
    assert len(both.slates) == 35 and (both.returns[30:] == logs.returns[:5]).all()
    np.testing.assert_array_equal(logs.bored[:, -1], engine.bored)


def test_random_latents_change_slowly():
    users = make_users("focused", "topdown", "latent", "belief", tiny_models()[0])
    policy, engine = RandomLatents(users.actions.model), users.engine
    engine.reset(np.arange(200, dtype=np.uint64))
    slates = [policy(engine)]
    engine.step_number = 1
    slates += [policy(engine) for _ in range(30)]
    assert (slates[-1] == slates[-2]).mean() > (slates[-1] == slates[0]).mean()


@pytest.mark.parametrize("kind", ["agent", "slates"])
def test_recorded_datasets(kind):
    users = make_users("focused", "topdown", "latent", "belief", tiny_models()[0], horizon=12)
    generator = np.random.default_rng(0)
    act = (lambda obs: generator.uniform(-1, 1, (len(obs), 32))) if kind == "agent" else None
    data = record(users, act, RandomSlates() if act is None else None, first_user=40, n_users=7)
    assert {name: (value.shape, value.dtype.name) for name, value in data.items()} == {
        "observations": ((84, 20), "float32"), "actions": ((84, 32), "float32"), "rewards": ((84,), "float32"),
        "next_observations": ((84, 20), "float32"), "terminals": ((84,), "bool"), "timeouts": ((84,), "bool"),
        "slates": ((84, 10), "int16"), "clicks": ((84, 10), "uint8"), "latents": ((84, 32), "float32"),
        "episode_ids": ((84,), "int64"), "timesteps": ((84,), "int16"),
    }  # fmt: skip
    np.testing.assert_array_equal(data["rewards"], data["clicks"].sum(1))
    assert not data["terminals"].any() and data["timeouts"].sum() == 7
    inner = ~data["timeouts"][:-1]
    np.testing.assert_array_equal(data["observations"][1:][inner], data["next_observations"][:-1][inner])
    model = users.actions.model
    if kind == "agent":
        np.testing.assert_array_equal(model.decode(data["latents"]), data["slates"])
    else:
        np.testing.assert_allclose(data["latents"], model.latents(data["slates"], data["clicks"]), atol=1e-5)
    # The same users, told by their slates alone, click the same.
    replayed = make_users("focused", "topdown", horizon=12)
    replayed.reset(np.arange(40, 47), 0)
    for step in range(12):
        replayed.show(data["slates"].reshape(7, 12, 10)[:, step].astype(np.int64))
        np.testing.assert_array_equal(replayed.outcome.clicks, data["clicks"].reshape(7, 12, 10)[:, step])


def test_rows_of_slates_that_went_through_the_decoder_are_consistent():
    """What is shown, and earns, is what the recorded action decodes to: the same actions, sent again, earn the same."""
    users = make_users("focused", "topdown", "latent", "belief", tiny_models()[0], horizon=12)
    data = record(users, through_decoder(users, EpsilonGreedyOracle(0.5)), None, first_user=40, n_users=7)
    rows = {name: value.reshape(7, 12, *value.shape[1:]) for name, value in data.items()}
    env = GemsVecEnv(7, "focused", "topdown", actions="latent", observations="belief", models=tiny_models()[0], horizon=12)
    env.seed(40)
    obs = env.reset()
    for step in range(12):
        np.testing.assert_array_equal(obs, rows["observations"][:, step])
        np.testing.assert_array_equal(users.actions.to_slates(rows["actions"][:, step]), rows["slates"][:, step])
        obs, rewards, _, _ = env.step(rows["actions"][:, step])
        np.testing.assert_array_equal(rewards, rows["rewards"][:, step])


def test_slates_are_encoded_with_the_clicks_that_they_would_get():
    users = make_users("focused", "topdown", "latent", "belief", tiny_models()[0])
    policy, twin = ConstantSlate(np.arange(10)), make_engine("focused", "topdown")
    users.reset(np.arange(5), 0)
    twin.reset(users.engine.keys)
    before = users.engine.get_state()
    action = through_decoder(users, policy)(np.zeros((5, 20)))
    model, slates = users.actions.model, policy(twin)
    np.testing.assert_array_equal(action, model.to_actions(model.latents(slates, twin.step(slates).clicks)))
    for name, value in users.engine.get_state().items():
        np.testing.assert_array_equal(value, before[name])


def test_recording_needs_latent_actions_beliefs_and_one_behaviour():
    for options in ({}, {"actions": "latent", "models": tiny_models()[0]}):
        with pytest.raises(ValueError, match="latent actions, and beliefs or privileged"):
            record(make_users("focused", "topdown", **options), None, RandomSlates(), 0, 1)
    users = make_users("focused", "topdown", "latent", "belief", tiny_models()[0])
    with pytest.raises(ValueError, match="either"):
        record(users, None, None, 0, 1)
    with pytest.raises(ValueError, match="at least 1"):
        record(users, None, RandomSlates(), 0, 0)


def test_models_datasets_and_evaluations_have_users_of_their_own():
    from sb3_pgr.envs.gems.build import LATENT_USERS, LOG_USERS

    from sb3_pgr.zoo.gems import FIRST_USER

    starts = [HELD_OUT_SEED, LOG_USERS, LATENT_USERS, FIRST_USER]
    assert np.diff(starts).min() > 10**9 and starts[1] > 2**32  # seeds of environments are below
