"""Loading and checking datasets."""

import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pgr import BC, IQL, TensorReplayBuffer
from sb3_pgr.offline import DatasetError, OfflineDataset, load_dataset
from sb3_pgr.offline.dataset import concatenate
from sb3_pgr.offline.description import summary
from sb3_pgr.offline.minari_format import save_minari
from sb3_pgr.offline.off_policy_evaluation import FQE, off_policy_scores
from sb3_pgr.offline.readers import save_npz
from sb3_pgr.offline.transforms import reward_map
from sb3_pgr.zoo import dataset as command
from sb3_pgr.zoo.errors import UsageError

NAMES = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


def arrays(lengths=(4, 3, 5), ends=("terminal", "timeout", "timeout"), seed=0, obs_dim=3):
    """Episodes of a random walk; their observations follow from each other."""
    random = np.random.default_rng(seed)
    parts = {name: [] for name in NAMES}
    for length, end in zip(lengths, ends, strict=True):
        walk = random.normal(size=(length + 1, obs_dim)).astype(np.float32)
        last = np.arange(length) == length - 1
        parts["observations"].append(walk[:-1])
        parts["next_observations"].append(walk[1:])
        parts["actions"].append(random.uniform(-1, 1, (length, 2)).astype(np.float32))
        parts["rewards"].append(random.normal(size=length).astype(np.float32))
        parts["terminals"].append(last & (end == "terminal"))
        parts["timeouts"].append(last & (end == "timeout"))
    return {name: np.concatenate(values) for name, values in parts.items()}


def equal(first, second, names=NAMES):
    for name in names:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def test_episodes():
    data = arrays()
    dataset = load_dataset(data)
    assert len(dataset) == 12 and dataset.corrections == ()
    assert dataset.episode_starts.tolist() == [0, 4, 7] and dataset.episode_ends.tolist() == [3, 6, 11]
    assert dataset.episode_lengths.tolist() == [4, 3, 5] and dataset.episodes.tolist() == [0] * 4 + [1] * 3 + [2] * 5
    np.testing.assert_allclose(
        dataset.episode_returns, [data["rewards"][s].sum() for s in (slice(4), slice(4, 7), slice(7, 12))], rtol=1e-5
    )
    actions, known = dataset.next_actions
    assert (~known).nonzero()[0].tolist() == [3, 6, 11]
    np.testing.assert_array_equal(actions[:3], data["actions"][1:4])
    to_go = dataset.returns_to_go(0.9)
    assert to_go[3] == pytest.approx(data["rewards"][3])
    assert to_go[1] == pytest.approx(data["rewards"][1] + 0.9 * data["rewards"][2] + 0.81 * data["rewards"][3])
    assert dataset.action_space == spaces.Box(-1, 1, (2,), np.float32)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 6), min_size=2, max_size=6),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_boundaries_are_recovered(lengths, seed, data):
    """Without timeouts from the observations; without next observations all rows but the unknowable ones come back."""
    ends = [data.draw(st.sampled_from(["terminal", "timeout"])) for _ in lengths]
    full = arrays(lengths, ends, seed)
    whole = load_dataset(full)
    equal(load_dataset({name: full[name] for name in NAMES if name != "timeouts"}), whole)
    shifted = load_dataset({name: full[name] for name in NAMES if name != "next_observations"})
    kept = ~full["timeouts"]
    equal(shifted, whole.select(np.flatnonzero(kept)), ("actions", "rewards", "terminals", "observations"))
    inside = ~shifted.terminals
    np.testing.assert_array_equal(shifted.next_observations[inside], full["next_observations"][kept][inside])
    np.testing.assert_array_equal(shifted.next_observations[~inside], shifted.observations[~inside])  # not another episode's
    np.testing.assert_allclose(shifted.episode_returns, whole.episode_returns, rtol=1e-5, atol=1e-5)
    assert shifted.select_episodes(np.array([1])).episode_returns == pytest.approx(whole.episode_returns[1:2], abs=1e-5)


def single_transitions(dataset):
    """As ``upsample`` writes them."""
    return replace(
        dataset,
        timeouts=~dataset.terminals,
        metadata={"played_returns": dataset.played_returns.tolist()},
        extras={"episode_return": np.full(len(dataset), np.nan)},
    )


@pytest.fixture
def real():
    return load_dataset(arrays((6, 9, 8), ("terminal", "timeout", "timeout")), action_space=spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize("order", [[0, 1], [1, 0], [1, 1], [1]])
def test_single_transitions_have_the_returns_behind_them(real, order, tmp_path):
    save_npz(concatenate([[real, single_transitions(real)][i] for i in order], "both"), tmp_path / "both.npz")
    both = load_dataset(tmp_path / "both.npz")
    assert both.played.sum() == (3 if 0 in order else 0)
    assert sorted(set(both.played_returns)) == pytest.approx(sorted(real.episode_returns), rel=1e-5)
    assert reward_map("return_range", both) == pytest.approx(reward_map("return_range", real), rel=1e-5)
    assert "single transitions" in summary(both)["episodes"] and summary(both)["mean return"] == summary(real)["mean return"]


@pytest.mark.parametrize("mixed", [True, False])
def test_single_transitions_are_no_episodes(real, mixed):
    data = concatenate([real, single_transitions(real)], "both") if mixed else single_transitions(real)
    with pytest.raises(DatasetError, match="part of no episode: best_fraction must be 1"):
        BC("MlpPolicy", dataset=data, best_fraction=0.5)
    model = IQL("MlpPolicy", dataset=data, reward_transform="return_range", policy_kwargs=dict(net_arch=[8]), device="cpu")
    scores, wanted = off_policy_scores(model, data), off_policy_scores(model, real)
    assert scores["td_error"] == pytest.approx(wanted["td_error"], rel=1e-4)
    for name in ("initial_value", "soft_opc"):
        assert scores.get(name) == (pytest.approx(wanted[name], rel=1e-4) if mixed else None)
    if mixed:
        values = [FQE(model, rows, device="cpu").initial_value() for rows in (data, real)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    else:
        with pytest.raises(DatasetError, match="no episodes to judge by"):
            FQE(model, data)
    with pytest.raises(DatasetError, match="nobody knows the range"):
        reward_map("return_range", replace(single_transitions(real), metadata={}))


def test_split_keeps_episodes_whole():
    dataset = load_dataset(arrays((3, 4, 5, 6), ("timeout",) * 4))
    first, second = dataset.split(0.5, seed=1)
    assert sorted([*first.episode_lengths, *second.episode_lengths]) == [3, 4, 5, 6]
    assert len(first) + len(second) == 18
    with pytest.raises(DatasetError, match="leaves one part empty"):
        dataset.split(0.01)


def test_cut_recordings_do_not_run_into_each_other():
    data = arrays()
    data["timeouts"][:] = False
    data["timeouts"][6] = True
    dataset = load_dataset(data)  # the last episode is cut without a mark
    joined = dataset.select_episodes(np.array([2, 0]))
    assert joined.episode_lengths.tolist() == [5, 4] and joined.timeouts[4]


@pytest.mark.parametrize("form", ["npz", "hdf5"])
def test_files_round_trip(tmp_path, form):
    data = arrays()
    if form == "npz":
        save_npz(load_dataset(data), tmp_path / "data.npz")
        path = tmp_path / "data.npz"
    else:
        h5py = pytest.importorskip("h5py")
        path = tmp_path / "data.hdf5"
        with h5py.File(path, "w") as file:
            for name, values in data.items():
                file[name] = values
            file["infos/qpos"] = np.zeros((5, 2))  # of another length, and none of our business
            file["metadata/algorithm"] = np.bytes_("SAC")
    dataset = load_dataset(path)
    equal(dataset, load_dataset(data))
    assert dataset.fingerprint == load_dataset(data).fingerprint
    assert dataset.fingerprint != load_dataset(arrays(seed=1)).fingerprint


def test_dict_observations_round_trip(tmp_path):
    data = arrays()
    for name in ("observations", "next_observations"):
        data[name] = {"position": data[name][:, :2], "camera": (data[name][:, 2:] * 10).astype(np.uint8)}
    dataset = load_dataset(data)
    assert isinstance(dataset.observation_space, spaces.Dict)
    assert dataset.observation_space["camera"].dtype == np.uint8
    save_npz(dataset, tmp_path / "data.npz")
    again = load_dataset(tmp_path / "data.npz")
    for key in ("position", "camera"):
        np.testing.assert_array_equal(again.observations[key], dataset.observations[key])
    assert again.fingerprint == dataset.fingerprint


def test_minari_round_trip(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = arrays()
    penalties = -np.arange(len(data["rewards"]), dtype=np.float32)
    dataset = load_dataset(data | {"grasp_penalty": penalties})
    made = save_minari(dataset, "sb3pgr/walk-v0")
    for source in (made, "sb3pgr/walk-v0", tmp_path / "sb3pgr" / "walk-v0"):
        loaded = load_dataset(source)
        equal(loaded, dataset)
        np.testing.assert_array_equal(loaded.extras["grasp_penalty"], penalties)
    known = replace(dataset, env_id="Pendulum-v1")  # Minari keeps scores of known environments
    save_minari(load_dataset(save_minari(known, "sb3pgr/scored-v0", ref_min_score=0.0, ref_max_score=9.0)), "again/walk-v0")
    scores = load_dataset("again/walk-v0").metadata
    assert (scores["ref_min_score"], scores["ref_max_score"]) == (0, 9)
    recorded = {"env_kwargs": {"g": 2.0}, "behaviour": "chance", "models": {"slates": "ab"}, "parts": [{"rows": np.int64(3)}]}
    of_moon = save_minari(replace(known, metadata=recorded), "sb3pgr/moon-v0")
    assert of_moon.env_spec.kwargs == {"g": 2.0} and gym.spec("Pendulum-v1").kwargs == {}
    metadata = load_dataset("sb3pgr/moon-v0").metadata
    assert {name: metadata[name] for name in recorded} == recorded
    single = replace(known, extras={"episode_return": np.full(len(dataset), np.nan)}, timeouts=~dataset.terminals)
    save_minari(replace(single, metadata={"played_returns": [-3.0, 4.0]}), "sb3pgr/single-v0")
    assert load_dataset("sb3pgr/single-v0").played_returns.tolist() == [-3, 4]
    shuffled = load_dataset({name: column[::-1] for name, column in data.items()})
    with pytest.raises(DatasetError, match=r"9 rows are not followed by their next observation"):
        save_minari(
            replace(shuffled, terminals=np.zeros(len(dataset), bool), timeouts=np.arange(len(dataset)) % 5 == 4), "a/b-v0"
        )
    first = next(made.iterate_episodes())
    assert len(first.infos["grasp_penalty"]) == len(first.rewards) + 1  # Minari has infos of the reset too


@pytest.mark.parametrize("buffer", [None, TensorReplayBuffer])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_replay_buffers(buffer, n_envs):
    """Actions in units of the environment, episodes of each environment one after the other, oldest first."""
    env = make_vec_env("Pendulum-v1", n_envs)
    model = SAC("MlpPolicy", env, learning_starts=10_000, buffer_size=300 * n_envs, replay_buffer_class=buffer)
    model.learn(450 * n_envs)
    dataset = load_dataset(model.replay_buffer)
    # Of steps 151 to 450: time limits after 200 and 400, and the cut at the end.
    assert len(dataset) == 300 * n_envs and dataset.timeouts.sum() == 3 * n_envs
    assert 1.5 < np.abs(dataset.actions).max() <= 2
    going_on = ~(dataset.terminals | dataset.timeouts)[:-1]
    np.testing.assert_array_equal(dataset.next_observations[:-1][going_on], dataset.observations[1:][going_on])


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorReplayBuffer])
@pytest.mark.parametrize(
    "size, steps, whole, pieces", [(600, 400, 4, 0), (600, 350, 2, 2), (300, 400, 2, 2), (600, 150, 0, 2), (250, 399, 0, 4)]
)
def test_pieces_of_episodes(kind, size, steps, whole, pieces):
    """Of a full buffer the first episode, and the running one; of each environment."""
    buffer = kind(size * 2, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), device="cpu", n_envs=2)
    for step in range(steps):
        timeout = step % 200 == 199
        row = np.full((2, 2), step % 200 / 1_000, np.float32)
        infos = [{"TimeLimit.truncated": timeout}] * 2
        buffer.add(row, row, np.zeros((2, 1)), np.ones(2), np.full(2, timeout), infos)
    everything = load_dataset(buffer)
    assert len(everything) == min(size, steps) * 2 and len(everything.episode_ends) == whole + pieces
    counted = f"{pieces} episodes of which the buffer has only a part counted as episodes"
    assert [note.split(":")[0] for note in everything.corrections] == [counted] * (pieces > 0)
    if not whole:
        with pytest.raises(DatasetError, match="no whole episode"):
            load_dataset(buffer, whole_episodes=True)
        return
    dataset = load_dataset(buffer, whole_episodes=True)
    assert dataset.episode_returns.tolist() == [200] * whole and (dataset.observations[::200] == 0).all()
    assert [note.split("part ")[1] for note in dataset.corrections] == ["left out"] * (pieces > 0)


def test_whole_episodes_are_of_buffers():
    with pytest.raises(DatasetError, match="whole_episodes=True is of replay buffers, not of dict"):
        load_dataset({}, whole_episodes=True)


def test_discrete_replay_buffer():
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=1_000).learn(200)
    dataset = load_dataset(model.replay_buffer)
    assert dataset.action_space == spaces.Discrete(2) and dataset.actions.dtype == np.int64
    assert dataset.terminals.sum() >= 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IQL("MlpPolicy", "Pendulum-v1", buffer_size=10).replay_buffer, "MixtureReplayBuffer has several .*online"),
        (lambda: PPO("MlpPolicy", "Pendulum-v1").rollout_buffer, "RolloutBuffer does not hold next observations"),
    ],
    ids=["mixture", "rollout"],
)
def test_other_buffers_are_refused(make, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(make())


def test_a_source_of_a_mixture():
    data = arrays()
    rows = IQL("MlpPolicy", dataset=data, policy_kwargs=dict(net_arch=[8])).replay_buffer.sources["dataset"]
    loaded, wanted = load_dataset(rows), load_dataset(data)
    equal(loaded, wanted, [name for name in NAMES if name != "actions"])
    np.testing.assert_allclose(loaded.actions, wanted.actions, atol=1e-6)  # they were scaled, and back


def test_what_is_mended_is_counted():
    data = arrays()
    data["observations"], data["rewards"] = data["observations"].astype(np.float64), data["rewards"][:, None]
    del data["timeouts"]
    data["next_observations"] = data["next_observations"].astype(np.float64)
    dataset = load_dataset(data)
    assert dataset.observations.dtype == np.float32 and dataset.rewards.shape == (12,)
    assert any("float64 made float32" in note for note in dataset.corrections)
    assert any("2 ends of episodes found" in note for note in dataset.corrections)
    data = arrays()
    data["actions"][0] = 1.00001
    dataset = load_dataset(data, action_space=spaces.Box(-1, 1, (2,)))
    assert dataset.actions.max() <= 1 and any("1 rows slightly outside" in note for note in dataset.corrections)
    data["actions"] = np.where(np.abs(data["actions"]) > 1, np.float32(1.000001), data["actions"])
    dataset = load_dataset(data)  # no space is known, but that of [-1, 1] is meant
    assert dataset.action_space == spaces.Box(-1, 1, (2,)) and dataset.actions.max() == 1
    assert any("1 rows slightly outside of" in note for note in dataset.corrections)
    data["actions"] *= 30
    assert "range of the actions" in load_dataset(data).corrections[0]
    del data["next_observations"]
    (note,) = (note for note in load_dataset(data).corrections if "next_observations" in note)
    assert "2 rows without one left out, 1 terminal rows given their own" in note


def nan(data):
    data["rewards"][3] = np.nan


def infinite(data):
    data["observations"][2, 1] = np.inf


def ragged(data):
    data["rewards"] = data["rewards"][:-2]


def objects(data):
    data["actions"] = np.array([[1.0], [1.0, 2.0]] * 6, dtype=object)


def no_boundaries(data):
    del data["next_observations"], data["timeouts"]


def one_row(data):
    for name in list(data):
        data[name] = data[name][:1]


def empty(data):
    for name in list(data):
        data[name] = data[name][:0]


def far_outside(data):
    data["actions"][5] = 7.0


def nested(data):
    for name in ("observations", "next_observations"):
        data[name] = {"goal": {"kettle": data[name]}, "state": data[name]}


def other_shape(data):
    data["next_observations"] = data["next_observations"][:, :2]


def soft_terminals(data):
    data["terminals"] = np.full(12, 0.3)


def text(data):
    data["actions"] = np.array(["left"] * 12)


@pytest.mark.parametrize(
    ("names", "terminations"),
    [
        (("dones", "timeouts"), [3]),
        (("dones", "truncations"), [3]),
        (("terminals", "timeouts"), [3, 6, 11]),
        (("terminations", "truncations"), [3, 6, 11]),
    ],
)
def test_ends_that_are_marked_twice(names, terminations):
    """``dones`` are true at time limits too; terminations of other names are what they say."""
    data = arrays()
    ends, limits = data.pop("terminals"), data.pop("timeouts")
    dataset = load_dataset(data | {names[0]: ends | limits, names[1]: limits})
    assert np.flatnonzero(dataset.terminals).tolist() == terminations
    assert np.flatnonzero(dataset.timeouts).tolist() == [row for row in (6, 11) if row not in terminations]
    (note,) = dataset.corrections
    assert "2 that are time limits too" in note if len(terminations) == 1 else "2 rows are both" in note


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan, "rewards holds 1 numbers that are not finite, the first in row 3"),
        (infinite, "observations holds 1 numbers that are not finite, the first in row 2"),
        (ragged, "arrays must have one length"),
        (objects, "actions must be numbers of one shape, not object"),
        (text, "actions must be numbers"),
        (no_boundaries, "neither next_observations nor timeouts"),
        (one_row, r"holds 1 transition\(s\); at least 2"),
        (empty, r"holds 0 transition\(s\)"),
        (far_outside, "1 actions lie outside .* the first in row 5"),
        (other_shape, "differ in shape"),
        (soft_terminals, "terminals must be 0 or 1"),
        (lambda data: data.pop("actions"), "lacks actions; it holds next_observations"),
        (lambda data: data.update({"3": data.pop("rewards")}), "lacks rewards; it holds 3, actions"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("form", ["dict", "npz"])
def test_refusals(tmp_path, spoil, message, form):
    data = arrays()
    spoil(data)
    source = data
    if form == "npz":
        source = tmp_path / "data.npz"
        np.savez(source, **data)
        message = message if spoil is not objects else "pickled objects are refused"
    with pytest.raises(DatasetError, match=message):
        load_dataset(source, action_space=spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize("name", ["actions", "rewards", "terminals"])
def test_a_dict_where_there_is_one_array(name):
    data = arrays()
    data[name] = {"left": data[name]}
    with pytest.raises(DatasetError, match=f"{name} must be one array, not a dict"):
        load_dataset(data)


def test_a_dict_within_a_dict():
    data = arrays()
    nested(data)
    with pytest.raises(DatasetError, match="observations/goal is a dict within a dict"):
        load_dataset(data)


def test_a_pickled_buffer_is_refused_with_a_way_out(tmp_path):
    space = spaces.Box(-1, 1, (2,))
    save_to_pkl(tmp_path / "buffer.pkl", ReplayBuffer(5, space, space))
    with pytest.raises(DatasetError, match=r"ReplayBuffer, which is not run; .* load_from_pkl"):
        load_dataset(tmp_path / "buffer.pkl")


@pytest.mark.parametrize("name", ["observations", "rewards", "slates"])
def test_ragged_lists(name):
    with pytest.raises(DatasetError, match=f"{name} must be numbers of one shape, but its rows differ in length"):
        load_dataset(arrays() | {name: [[1.0, 2.0]] * 11 + [[1.0]]})


def test_damaged_files(tmp_path):
    """Whichever byte is wrong."""
    path, refused = tmp_path / "data.npz", 0
    save_npz(load_dataset(arrays()), path)
    sound = path.read_bytes()
    for i in range(0, len(sound), 5):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 0xFF]) + sound[i + 1 :])
        try:
            load_dataset(path)
        except DatasetError:
            refused += 1
    assert refused > len(sound) / 10


def test_unreadable_files(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "cut.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (tmp_path / "folder").mkdir()
    for source, message in (
        (tmp_path / "cut.npz", "cannot be read as an npz file"),
        (tmp_path / "one.npz", "cannot be read as an npz file"),
        (tmp_path / "cut.hdf5", "cannot be read as an HDF5 file"),
        (tmp_path / "none.npz", "There is no file"),
        (tmp_path / "folder", "nor a Minari dataset"),
        ("no/such/dataset-v0", "nor a Minari dataset"),
        (42, "A dataset is a path, .* not int"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_dataset(source)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (dict(observation_space=spaces.Box(-1, 1, (4,))), "observations of shape .* do not fit"),
        (dict(action_space=spaces.Box(-1, 1, (3,))), "actions of shape .* do not fit"),
        (dict(action_space=spaces.Discrete(3)), "do not fit"),
    ],
)
def test_other_environment(space, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(arrays(), **space)


def test_a_dataset_is_a_dataset():
    dataset = load_dataset(arrays())
    assert isinstance(dataset, OfflineDataset) and load_dataset(dataset) is dataset


@pytest.fixture
def call(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sb3-pgr dataset", *map(str, arguments)])
        command.main()

    return call


def test_info_and_check(tmp_path, call, capsys):
    np.savez(tmp_path / "data.npz", **arrays((20, 30), ("terminal", "timeout")))
    call("info", tmp_path / "data.npz")
    said = capsys.readouterr().out
    assert "50" in said and "2 of 20 to 30 rows" in said and "1 terminations, 1 time limits" in said
    assert (tmp_path / "data.png").stat().st_size > 10_000
    call("check", tmp_path / "data.npz")
    assert "nothing to complain about" in capsys.readouterr().out


def test_check_of_several_goes_on_after_a_bad_one(tmp_path, call, capsys):
    np.savez(tmp_path / "data.npz", **arrays((20, 30), ("terminal", "timeout")))
    with pytest.raises(SystemExit):
        call("check", tmp_path / "none.npz", tmp_path / "data.npz")
    said = capsys.readouterr().out
    assert "none.npz" in said and "data.npz: 50 rows, nothing to complain about." in said


def test_check_names_problems(tmp_path, call, capsys):
    data = arrays((20, 30), ("terminal", "timeout"))
    data["observations"][:, 1] = 7
    data["next_observations"][:, 1] = 7
    data["rewards"][:] = 0
    for name in NAMES:
        data[name][5] = data[name][4]
    unmarked = data["timeouts"].copy()
    np.savez(tmp_path / "data.npz", **data | {"timeouts": unmarked & False})
    with pytest.raises(SystemExit):
        call("check", tmp_path / "data.npz")
    assert "2 rows are not followed by their next observation, and are not marked" in capsys.readouterr().out
    del data["timeouts"]
    np.savez(tmp_path / "data.npz", **data)
    with pytest.raises(SystemExit):
        call("check", tmp_path / "data.npz")
    said = capsys.readouterr().out
    for problem in ("1 of 3 numbers never change", "all rewards are 0", "1 rows are there more than once", "no timeouts"):
        assert problem in said, said


def test_convert(tmp_path, call, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    np.savez(tmp_path / "data.npz", **arrays())
    call("convert", tmp_path / "data.npz", "walk/random-v0")
    call("convert", "walk/random-v0", tmp_path / "again.npz")
    equal(load_dataset(tmp_path / "again.npz"), load_dataset(arrays()))
    for target, message in (
        (tmp_path / "data.csv", "only .npz files and Minari"),
        ("no version", "Minari refuses no version"),
        ("noversion", "Minari refuses noversion"),
    ):
        with pytest.raises(UsageError, match=message):
            call("convert", tmp_path / "data.npz", target)
    with pytest.raises(UsageError, match="There is no file"):
        call("info", tmp_path / "none.npz")


@pytest.mark.parametrize("kind", [spaces.Discrete(5), spaces.Box(-2, 3, (2,))])
def test_npz_keeps_spaces(kind, tmp_path):
    data = arrays()
    n = len(data["rewards"])
    data["actions"] = np.zeros(n, np.int64) if isinstance(kind, spaces.Discrete) else np.zeros((n, 2), np.float32)
    seen = spaces.Box(-np.inf, np.array([9, np.inf, 7], np.float32), (3,), np.float32)
    save_npz(load_dataset(data | {"more": np.arange(n), "words": np.full(n, "a")}, seen, kind), tmp_path / "data.npz")
    loaded = load_dataset(tmp_path / "data.npz")
    assert loaded.action_space == kind and loaded.observation_space == seen
    assert list(loaded.extras) == ["more"]
    np.testing.assert_array_equal(loaded.select(np.array([3, 1])).extras["more"], [3, 1])
