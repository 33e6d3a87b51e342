"""Reward classifier and pickled recordings."""

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from commands import run
from gymnasium import spaces
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from numpy._core.numeric import _frombuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_pgr import HybridSAC
from sb3_pgr.offline import load_dataset
from sb3_pgr.offline.dataset import DatasetError
from sb3_pgr.offline.pickles import read_pickle, transitions_of
from sb3_pgr.rewards import ClassifierError, ClassifierReward, RewardClassifier
from sb3_pgr.rewards.data import read_folder
from sb3_pgr.rewards.pictures import draw_judgement, draw_scores
from sb3_pgr.rewards.training import Judgement, _split, probabilities, train_classifier


def images(success, n=20, size=16, seed=0):
    """A bright square is there, or it is not."""
    random = np.random.default_rng(seed)
    front = random.integers(0, 80, (n, size, size, 3), dtype=np.uint8)
    if success:
        front[:, 4:10, 4:10] = 255
    return {"front": front, "wrist": random.integers(0, 255, (n, size, size, 3), dtype=np.uint8)}


@pytest.fixture(scope="module")
def trained():
    success, failure = ({f"{kind}_{i}": images(kind, seed=10 * i + kind) for i in range(5)} for kind in (True, False))
    return train_classifier(success, failure, steps=60, batch_size=32, seed=0)


def test_it_learns_and_is_judged_by_what_it_has_not_seen(trained):
    classifier, judgement = trained
    assert judgement.accuracy == 1 and judgement.false_positive_rate == 0
    counts = judgement.confusion
    assert counts[0, 1] == counts[1, 0] == 0 and counts.sum() == 40 and counts.trace() == 40
    for success in (False, True):
        obs = {key: value[0] for key, value in images(success, seed=99).items()}
        probability, verdict = classifier.predict_success(obs)
        assert verdict == success and (probability >= classifier.threshold) == success


@pytest.mark.parametrize("n", [40, 200])
def test_a_hundredth_of_the_failures_passes(n):
    """What can be told apart from nothing: the threshold lies among the failures."""
    noise = {f"{i}": {"wrist": images(False, n // 4, seed=i)["wrist"]} for i in range(5)}
    classifier, _ = train_classifier(noise, noise, steps=2, batch_size=16, validation_share=0.2, seed=0)
    (kept, _), _ = _split(noise, noise, 0.2, np.random.default_rng(0))
    passed = (probabilities(classifier, kept) >= classifier.threshold).sum()
    assert classifier.threshold > 0.5 and passed == n // 100


def test_saved_and_loaded_it_says_the_same(trained, tmp_path):
    classifier, _ = trained
    classifier.save(tmp_path / "c.pt")
    loaded = RewardClassifier.load(tmp_path / "c.pt")
    np.testing.assert_array_equal(probabilities(classifier, images(True)), probabilities(loaded, images(True)))
    assert loaded.threshold == classifier.threshold
    (tmp_path / "other.pt").write_bytes(b"nothing")
    th.save({"a": 1}, tmp_path / "another.pt")
    for name in ("other.pt", "another.pt"):
        with pytest.raises(ClassifierError, match="is no classifier"):
            RewardClassifier.load(tmp_path / name)
    with pytest.raises(ClassifierError, match="There is no classifier"):
        RewardClassifier.load(tmp_path / "none.pt")


def test_wrong_images(trained):
    classifier, _ = trained
    good = images(True, 1)
    for change, message in (
        (dict(front=good["front"][:, :8]), "learned from 'front' images of shape"),
        (dict(front=good["front"].astype(np.float32)), "float32"),
    ):
        with pytest.raises(ClassifierError, match=message):
            classifier.probability(good | change)
    with pytest.raises(ClassifierError, match="no 'wrist'"):
        classifier.probability({"front": good["front"]})


def test_figures_of_a_judgement():
    labels = np.array([0, 0, 0, 0, 1, 1], bool)
    judgement = Judgement(labels, np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.4]), 0.5)
    assert judgement.confusion.tolist() == [[3, 1], [1, 1]]
    assert judgement.accuracy == pytest.approx((0.75 + 0.5) / 2) and judgement.false_positive_rate == 0.25
    false, true = judgement.roc()
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    pairs = [(p, n) for p in (0.8, 0.4) for n in (0.1, 0.2, 0.3, 0.9)]
    assert np.trapezoid(true, false) == pytest.approx(np.mean([p > n for p, n in pairs]))


def test_pictures(trained, tmp_path):
    classifier, judgement = trained
    draw_judgement(judgement, tmp_path / "roc.png")
    draw_scores(probabilities(classifier, images(True)), np.ones(20), images(True), classifier, tmp_path / "scores.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("roc.png", "scores.png"))


def test_a_single_recording_is_cut(trained):
    before = th.random.get_rng_state()
    _, judgement = train_classifier({"one.pkl": images(True)}, {"other.pkl": images(False)}, steps=3)
    assert 4 <= judgement.labels.sum() <= 8 and len(judgement.labels) < 20  # a fifth of 20 frames each, or two
    assert th.equal(th.random.get_rng_state(), before)


def test_one_frame_is_not_enough():
    with pytest.raises(ClassifierError, match="too few frames of success"):
        train_classifier({"a": images(True, 1)}, dict.fromkeys("abc", images(False)))
    with pytest.raises(ClassifierError, match="threshold=2"):
        train_classifier({"a": images(True)}, {"a": images(False)}, threshold=2)
    with pytest.raises(ClassifierError, match="too few recordings"):
        train_classifier(dict.fromkeys("ab", images(True)), dict.fromkeys("abcd", images(False)), validation_share=0.9)


def test_folders_of_different_image_sizes():
    with pytest.raises(ClassifierError, match=r"several sizes: .*\(16, 16, 3\).* and .*\(8, 8, 3\)"):
        train_classifier(dict.fromkeys("ab", images(True)), dict.fromkeys("ab", images(False, size=8)))


def test_cameras_with_different_numbers_of_frames(tmp_path):
    np.savez(tmp_path / "a.npz", front=images(True, 5)["front"], wrist=images(True, 3)["wrist"])
    with pytest.raises(ClassifierError, match="'front': 5, 'wrist': 3"):
        read_folder(tmp_path, ["front", "wrist"], True)


def test_success_and_failure_of_one_recording_stay_together():
    def marked(kind):
        return {str(i): {"front": np.full((3, 4, 4, 3), i, np.uint8)} for i in range(kind, 10)}

    for seed in range(5):
        kept, held = _split(marked(0), marked(2), 0.3, np.random.default_rng(seed))
        learned, judged = ({int(i) for part in parts for i in np.unique(part["front"])} for parts in (kept, held))
        assert not learned & judged and learned | judged == set(range(10)) and len(judged) in (3, 4)


class Blind(gym.Env):
    """Succeeds, and shows nothing of it."""

    observation_space = spaces.Dict(dict.fromkeys(("front", "wrist"), spaces.Box(0, 255, (16, 16, 3), np.uint8)))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, seed=None, options=None):
        return {key: value[0] for key, value in images(False, 1).items()}, {}

    def step(self, action):
        return self.reset()[0], 1.0, True, False, {"is_success": True}


def test_a_missed_success_ends_the_episode_and_not_the_task(trained):
    env = ClassifierReward(Blind(), trained[0])
    env.reset()
    _, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (reward, terminated, truncated) == (0, False, True) and info["true_success"] and not info["is_success"]


class Camera(gym.Env):
    """Shows success from the third step on; says so itself from the fourth."""

    observation_space = spaces.Dict(dict.fromkeys(("front", "wrist"), spaces.Box(0, 255, (16, 16, 3), np.uint8)))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, seed=None, options=None):
        self.steps = 0
        return self._obs(), {}

    def _obs(self):
        return {key: value[0] for key, value in images(self.steps >= 3, 1, seed=self.steps + 50).items()}

    def step(self, action):
        self.steps += 1
        return self._obs(), 5.0, self.steps == 2, False, {"is_success": False}


def test_the_classifier_s_verdict_replaces_the_reward(trained):
    env = ClassifierReward(Camera(), trained[0])
    env.reset()
    steps = [env.step(np.zeros(2)) for _ in range(3)]
    assert [step[1] for step in steps] == [0, 0, 1]
    assert [step[2] for step in steps] == [False, True, True]  # the second: something else went wrong
    info = steps[-1][4]
    assert info["is_success"] and info["true_reward"] == 5 and not info["true_success"] and info["success_probability"] > 0.5
    strict = ClassifierReward(Camera(), trained[0], condition=lambda obs: False)
    strict.reset()
    assert all(strict.step(np.zeros(2))[1] == 0 for _ in range(3))
    with pytest.raises(ClassifierError):
        ClassifierReward(gym.make("Pendulum-v1"), trained[0])
    with pytest.raises(ValueError, match="consecutive=0"):
        ClassifierReward(Camera(), trained[0], consecutive=0)
    with pytest.raises(ClassifierError, match="no function that can be imported"):
        ClassifierReward(Camera(), trained[0], condition="nowhere:function")


def test_success_in_passing_is_none(trained):
    verdicts = iter([True, False, True, True, True, False, True])
    env = ClassifierReward(Camera(), trained[0], threshold=0.0, condition=lambda obs: next(verdicts), consecutive=2)
    env.reset()
    assert [env.step(np.zeros(2))[1] for _ in range(5)] == [0, 0, 0, 1, 1]
    env.step(np.zeros(2))
    env.reset()  # what was seen before does not count
    assert env.step(np.zeros(2))[1] == 0


def test_the_last_step_of_a_task_is_enough(trained):
    env = ClassifierReward(Blind(), trained[0], threshold=0.0, consecutive=2)
    env.reset()
    _, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (reward, terminated, truncated) == (1, True, False) and info["is_success"]


class Staying(Camera):
    """Succeeds from the third step on, and goes on."""

    def step(self, action):
        obs, *_ = super().step(action)
        return obs, float(self.steps >= 3), False, False, {"is_success": self.steps >= 3}


def test_a_task_that_goes_on_ends_by_the_classifier_and_evaluations_by_success(trained):
    env = ClassifierReward(Staying(), trained[0], consecutive=2)
    env.reset()
    assert [env.step(np.zeros(2))[1:3] for _ in range(4)] == [(0, False), (0, False), (0, False), (1, True)]
    env.stand_aside()
    env.reset()
    assert [env.step(np.zeros(2))[1:3] for _ in range(3)] == [(0, False), (0, False), (1, True)]


def test_evaluations_count_the_episodes_that_success_ends(trained):
    env = make_vec_env(lambda: ClassifierReward(Monitor(TimeLimit(Staying(), 9)), trained[0], consecutive=2))
    env.env_method("stand_aside")
    assert evaluate_policy(Idle(), env, 3, return_episode_rewards=True) == ([1.0] * 3, [3] * 3)


def test_gymnasium_counts_episodes_too(trained):
    env = RecordEpisodeStatistics(ClassifierReward(TimeLimit(Staying(), 2), trained[0]))
    env.reset()
    env.step(np.zeros(2))
    assert env.step(np.zeros(2))[4]["episode"]["l"] == 2


class Idle:
    def predict(self, obs, state=None, **_):
        return np.zeros((1, 2)), state


def test_a_learned_reward_does_not_judge_itself(trained):
    env = ClassifierReward(Camera(), trained[0])
    env.stand_aside()
    env.reset()
    rewards, ends = zip(*(env.step(np.zeros(2))[1:3] for _ in range(3)), strict=True)
    assert rewards == (5, 5, 5) and ends == (False, True, False)  # the third would be a success by the classifier
    _, _, _, _, info = env.step(np.zeros(2))
    assert info == {"is_success": False}


def test_evaluations_of_a_run_are_by_the_environment(trained, tmp_path):
    trained[0].save(tmp_path / "c.pt")
    (tmp_path / "camera.py").write_text(
        "import gymnasium as gym\nfrom test_rewards import Camera\n"
        "gym.register('Camera-v0', entry_point=Camera, max_episode_steps=9)\n"
    )
    wrapper = f"env_wrapper:[{{'sb3_pgr.rewards.ClassifierReward': {{'classifier': '{tmp_path / 'c.pt'}'}}}}]"
    flags = ["--algo", "hybrid_sac", "--env", "Camera-v0", "--gym-packages", "camera", "-n", 4, "-f", tmp_path / "logs"]
    flags += ["--eval-freq", 4, "--eval-episodes", 1, "--final-episodes", 2, "--checkpoint-freq", 0]
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    run("train", *flags, "-params", wrapper, "policy:'MultiInputPolicy'", env=environment)
    folder = tmp_path / "logs/hybrid_sac/Camera-v0_1"
    # Two steps of 5 an episode; to the classifier they are worth nothing.
    assert np.load(folder / "evaluations.npz")["results"].tolist() == [[10]]
    assert json.loads((folder / "scores.json").read_text())["last"]["return_mean"] == 10
    where = [*flags[:6], "-f", tmp_path / "logs"]
    collected = run("collect", *where, "--episodes", 2, "-o", tmp_path / "c.npz", env=environment)
    assert "2 episodes, mean return 10.0" in collected
    assert "Mean reward: 10.00" in run("enjoy", *where, "-n", 6, "--no-render", env=environment)


class Endless(Camera):
    """Ends where the classifier says so, and nowhere else."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def test_episodes_that_the_classifier_ends_are_counted(trained):
    """SB3 puts Monitor below this wrapper: it does not see them end."""

    class Still:
        predict = staticmethod(lambda obs, **_: (np.zeros((1, 2)), None))

    options = dict(wrapper_class=ClassifierReward, wrapper_kwargs=dict(classifier=trained[0], condition="builtins:bool"))
    returns, lengths = evaluate_policy(Still(), make_vec_env(Endless, **options), 2, return_episode_rewards=True)
    assert (returns, lengths) == ([15, 15], [3, 3])  # of the task, which is never done
    model = HybridSAC("MultiInputPolicy", make_vec_env(Endless, **options), buffer_size=100, device="cpu")
    model.learn(6)
    assert model.episode_log.summary()["true_success_rate"] == 0 and len(model.ep_info_buffer) == 2


def test_folders(tmp_path):
    np.savez(tmp_path / "a.npz", **images(True))
    records = [{"observations": {"front": np.zeros((1, 16, 16, 3), np.uint8), "state": np.zeros((1, 4))}, "labels": 1}] * 3
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(records))
    parts = read_folder(tmp_path, ["front"], True)
    assert [part["front"].shape for part in parts.values()] == [(20, 16, 16, 3), (3, 16, 16, 3)]
    with pytest.raises(ClassifierError, match=r"b\.pkl has no images \['wrist'\]"):
        read_folder(tmp_path, ["wrist"], True)
    with pytest.raises(ClassifierError, match=r"b\.pkl lies in the folder of failure, but 3 of its 3 labels say success"):
        read_folder(tmp_path, ["front"], False)
    np.savez(tmp_path / "c.npz", **images(True, size=32))
    with pytest.raises(ClassifierError, match="several sizes"):
        read_folder(tmp_path, ["front"], True)
    with pytest.raises(ClassifierError, match=r"no \.npz or"):
        read_folder(tmp_path / "none", ["front"], True)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


class Sneaky:
    def __reduce__(self):
        return getattr, ("", "join")


@pytest.mark.parametrize("thing, name", [(Malicious(), "system"), (Sneaky(), "getattr"), ([{"a": Malicious()}], "system")])
def test_pickles_run_nothing(thing, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(thing))
    with pytest.raises(DatasetError, match=name):
        read_pickle(tmp_path / "bad.pkl")
    assert not (tmp_path / "executed").exists()


class CraftedDType:
    """A dtype whose state claims objects among plain bytes: numpy would follow them to anywhere in memory."""

    def __reduce__(self):
        return np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)


class Renamed:
    """Wants to change a function for everybody."""

    def __reduce__(self):
        return _frombuffer, (), (None, {"__doc__": "changed"})


@pytest.mark.parametrize(
    "thing", [CraftedDType(), np.array([None, 1]), np.zeros(2, "U3"), np.zeros(2, [("a", "f4")]), Renamed()]
)
def test_pickles_hold_plain_numbers_alone(thing, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps([thing]))
    with pytest.raises(DatasetError, match="refused"):
        read_pickle(tmp_path / "bad.pkl")
    assert _frombuffer.__doc__ != "changed"


def test_a_function_of_numpy_cannot_be_changed(tmp_path):
    """By the opcode that sets state, with nothing called."""
    code = b"\x80\x02cnumpy._core.numeric\n_frombuffer\nN}X\x07\x00\x00\x00__doc__X\x05\x00\x00\x00pwneds\x86b."
    (tmp_path / "bad.pkl").write_bytes(code)
    before = _frombuffer.__doc__
    with pytest.raises(DatasetError, match="refused"):
        read_pickle(tmp_path / "bad.pkl")
    assert _frombuffer.__doc__ == before


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_are_read(protocol, tmp_path):
    thing = [OrderedDict(a=np.arange(6.0).reshape(2, 3), b=np.float32(2), c=(True, None, "x")), {"d": np.zeros(3, np.uint8)}]
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(thing, protocol))
    read = read_pickle(tmp_path / "good.pkl")
    np.testing.assert_array_equal(read[0]["a"], thing[0]["a"])
    assert read[0]["b"] == 2 and read[0]["c"] == (True, None, "x") and read[1]["d"].dtype == np.uint8
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps(thing, protocol)[:-20])
    with pytest.raises(DatasetError, match="refused"):
        read_pickle(tmp_path / "cut.pkl")


def record(i, **more):
    obs = {"front": np.full((1, 3, 8, 8), i / 10, np.float32), "state": np.full((1, 4), i)}
    step = {
        "observations": obs,
        "actions": np.full(7, 0.1),
        "next_observations": obs,
        "rewards": float(i == 4),
        "dones": i == 4,
    }
    return step | {"masks": 1.0, "infos": {"grasp_penalty": -0.02 * (i == 1)}} | more


def test_transitions_of_hil_serl(tmp_path):
    arrays = transitions_of([record(i) for i in range(5)], "demos")
    assert arrays["observations"]["front"].shape == (5, 8, 8, 3) and arrays["observations"]["front"].dtype == np.uint8
    assert arrays["observations"]["front"][4].max() == 102 and arrays["observations"]["state"].shape == (5, 4)
    assert arrays["terminals"].sum() == 0 and arrays["timeouts"].tolist() == [False] * 4 + [True]  # done, but its mask is 1
    np.testing.assert_allclose(arrays["grasp_penalty"], [0, -0.02, 0, 0, 0])
    with pytest.warns(UserWarning, match="2 of 5 transitions have no grasp_penalty"):
        partly = transitions_of([record(i, **({"infos": {}} if i > 2 else {})) for i in range(5)], "demos")
    np.testing.assert_allclose(partly["grasp_penalty"], [0, -0.02, 0, 0, 0])
    assert "grasp_penalty" not in transitions_of([record(i, infos={}) for i in range(5)], "demos")
    ended = transitions_of([record(i, masks=float(i != 4)) for i in range(5)], "demos")
    assert ended["terminals"].tolist() == [False] * 4 + [True] and not ended["timeouts"].any()
    (tmp_path / "demos.pkl").write_bytes(pickle.dumps([record(i) for i in range(5)]))
    dataset = load_dataset(tmp_path / "demos.pkl")
    assert len(dataset) == 5 and dataset.action_space.shape == (7,) and dataset.extras["grasp_penalty"][1] == np.float32(-0.02)
    for records, message in (
        ({}, "no list"),
        ([{"observations": 1}], "lack actions"),
        ([{k: v for k, v in record(0).items() if k not in ("dones", "masks")}], "neither dones nor masks"),
        ([record(0), record(1, actions=np.zeros(6))], "one shape"),
        ([record(0, actions=["a"] * 7)], "demos: could not convert"),
        ([record(0, actions=[[1.0], [1.0, 2.0]])], "demos: "),
        ([record(0, infos={"grasp_penalty": []})], "demos: "),
        ([record(0, observations={"front": np.full((1, 3, 8, 8), -0.5)})], "from -0.5 to -0.5"),
    ):
        with pytest.raises(DatasetError, match=message):
            transitions_of(records, "demos")
    with pytest.raises(DatasetError, match="only 1 of 2 records have labels"):
        transitions_of([record(0, labels=1), record(1)], "demos", labels_only=True)


def test_what_is_in_many_places_is_read_once(tmp_path):
    """2 ** 40 lists, if each place had its own."""
    nested = [np.ones(2)]
    for _ in range(40):
        nested = [nested, nested]
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(nested))
    read = read_pickle(tmp_path / "bomb.pkl")
    for _ in range(40):
        assert read[0] is read[1]
        read = read[0]
    assert read[0].tolist() == [1, 1]
