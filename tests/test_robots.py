"""Robot tasks: spaces, seeds, experts, grippers, wrappers, interventions, recordings."""

import sys
from types import SimpleNamespace

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from sb3_pgr.envs.registration import ROBOTS
from sb3_pgr.envs.robots import ArrangeBoxes, LiftTray, PickCube
from sb3_pgr.envs.robots.arrange_boxes import HALF, N_BOXES
from sb3_pgr.envs.robots.experts import expert_action
from sb3_pgr.envs.robots.interventions import SOURCES, KeyboardSource, ScriptedSource, directions, whole_action
from sb3_pgr.envs.robots.pick_cube import holds_up
from sb3_pgr.envs.robots.recording import record_demonstrations, record_frames
from sb3_pgr.envs.robots.wrappers import FlatObservation, GripperPenalty, HilInfo, Intervention, RelativeFrame
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from sb3_pgr.offline.spaces_only import SpacesOnly

IDS = [env_id for env_id in gym.registry if env_id.startswith("robots/")]


@pytest.fixture(scope="module")
def pick_cube():
    return PickCube()


def test_ids():
    assert len(IDS) == 2 * (2 * len(ROBOTS) - 1)  # boxes cannot be arranged with a fixed gripper


@pytest.mark.parametrize("env_id", IDS)
def test_checkers(env_id):
    env = gym.make(env_id)
    check_env(env.unwrapped, skip_render_check=True)
    check_sb3_env(env, warn=False)
    n_arms = 2 if "tray" in env_id else 1
    assert env.action_space.shape == ((3 if "fixed" in env_id else 4) * n_arms,)
    obs, info = env.reset(seed=0)
    assert info["is_success"] is False
    if "images" in env_id:
        assert sorted(obs) == sorted([*env.unwrapped.cameras, "state"]) and obs["state"].shape == (8 * n_arms,)
        assert all(obs[key].std() > 5 for key in env.unwrapped.cameras)  # something is to be seen
    env.close()


@pytest.mark.parametrize(
    "task, gripper", [(PickCube, "learned"), (PickCube, "fixed"), (LiftTray, "learned"), (LiftTray, "fixed")]
)
def test_the_expert_solves_it(task, gripper):
    env = task(gripper=gripper)
    random = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(80):
            _, reward, terminated, _, info = env.step(expert_action(env, 0.2, random))
            if terminated:
                break
        assert info["is_success"] and reward == 1, seed


def test_the_expert_puts_a_box_on_its_mark():
    env = ArrangeBoxes()
    env.reset(seed=1)
    placed = lambda: sum(np.linalg.norm(env.to_mark(i)) < 0.03 for i in range(5))  # noqa: E731
    before = placed()
    for _ in range(90):
        env.step(expert_action(env))
    assert placed() > before


def test_seeds(pick_cube):
    first, _ = pick_cube.reset(seed=3)
    steps = [pick_cube.step(np.array([0.3, -0.2, -1, 0], np.float32))[0] for _ in range(5)]
    again, _ = pick_cube.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    for obs in steps:
        np.testing.assert_array_equal(obs, pick_cube.step(np.array([0.3, -0.2, -1, 0], np.float32))[0])
    assert not np.array_equal(first, pick_cube.reset(seed=4)[0])
    assert not np.array_equal(pick_cube.reset()[0], pick_cube.reset()[0])


def test_plus_one_opens(pick_cube):
    pick_cube.reset(seed=0)
    opening = lambda: pick_cube.step(np.zeros(4))[0][6]  # noqa: E731
    assert opening() > 0.95
    for command, wanted in ((-0.4, True), (-0.95, False), (0.0, False), (0.4, False), (0.9, True)):
        pick_cube.step(np.array([0, 0, 0, command]))
        for _ in range(8):
            pick_cube.step(np.zeros(4))
        assert (opening() > 0.9) == wanted, command


def test_an_action_of_one_moves_the_gripper_by_2_5_cm(pick_cube):
    obs, _ = pick_cube.reset(seed=0)
    start = obs[:3]
    for _ in range(4):
        pick_cube.step(np.array([0, 1, 0.5, 0]))
    for _ in range(10):
        obs, *_ = pick_cube.step(np.zeros(4))
    np.testing.assert_allclose(obs[:3] - start, [0, 0.1, 0.05], atol=0.004)


def test_pushed_away_is_failure(pick_cube):
    pick_cube.reset(seed=0)
    pick_cube.put("cube", (0.7, 0, 0.02))
    _, reward, terminated, _, info = pick_cube.step(np.zeros(4))
    assert terminated and reward == 0 and not info["is_success"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(gripper="magnetic"), "gripper='magnetic'"),
        (dict(observations="smells"), "observations='smells'"),
        (dict(reward="none"), "reward='none'"),
        (dict(image_size=8), "image_size=8"),
        (dict(render_mode="human"), "render_mode='human'"),
        (dict(render_camera="roof"), "render_camera='roof'"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PickCube(**arguments)


def test_cameras_side_by_side():
    env = PickCube(render_mode="rgb_array", render_camera="all")
    env.reset(seed=0)
    both = env.render()
    assert both.shape == (256, 512, 3) and both[:, :256].std() > 1 and both[:, 256:].std() > 1
    env._shown = ["front"]
    assert np.array_equal(env.render(), both[:, :256])
    env.close()


@pytest.mark.parametrize("action", [np.zeros(3), np.full(4, np.nan), np.zeros((1, 4))], ids=["short", "nan", "batched"])
def test_bad_actions(pick_cube, action):
    pick_cube.reset(seed=0)
    with pytest.raises(ValueError, match="finite numbers of shape"):
        pick_cube.step(action)


class Scene(gym.Env):
    """Says what it was told to, in nested observations."""

    inner = spaces.Dict({"front": spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    observation_space = spaces.Dict({"pixels": inner, "agent_pos": spaces.Box(-1, 1, (2,)), "block": spaces.Box(-1, 1, (3,))})
    action_space = spaces.Box(-1, 1, (4,), np.float32)
    told = {}

    def reset(self, seed=None, options=None):
        self.done = 0
        return self._obs(), {}

    def _obs(self):
        return {"pixels": {"front": np.full((8, 8, 3), 7, np.uint8)}, "agent_pos": np.ones(2), "block": np.zeros(3)}

    def step(self, action):
        self.done += 1
        return self._obs(), 0.0, False, self.done == 6, {"succeed": self.done == 6} | self.told


@pytest.mark.parametrize("low, high", [(-1, 1), (0, 2)])  # the latter is gym-hil's
def test_changes_of_the_gripper_cost(low, high):
    scene = Scene()
    scene.action_space = spaces.Box(np.array([-1, -1, -1, low], np.float32), np.array([1, 1, 1, high], np.float32))
    env = GripperPenalty(scene, [3], -0.02)
    env.reset()
    commands = low + (high - low) * (np.array([1, -0.3, -1, -1, 0.2, 0.9]) + 1) / 2
    penalties = [env.step(np.array([0, 0, 0, command]))[4]["grasp_penalty"] for command in commands]
    assert penalties == [0, 0, -0.02, 0, 0, -0.02]
    env.reset()
    assert env.step(np.array([0, 0, 0, high]))[4]["grasp_penalty"] == 0  # it starts open again


def test_refusals_of_penalties():
    unbounded = Scene()
    unbounded.action_space = spaces.Box(-np.inf, np.inf, (4,))
    for scene, wrong in (
        (Scene(), dict(indices=[4])),
        (Scene(), dict(indices=[3], penalty=0.1)),
        (unbounded, dict(indices=[3])),
    ):
        with pytest.raises(ValueError):
            GripperPenalty(scene, **wrong)


def test_interventions_are_executed_reported_and_counted():
    class Teacher:
        def reset(self, env):
            self.steps = 0

        def action(self, env):
            self.steps += 1
            return np.array([0, 0, 0, -1]) if self.steps in (2, 3, 5) else None

    env = GripperPenalty(Intervention(Scene(), Teacher()), [3])
    env.reset()
    infos = [env.step(np.zeros(4))[4] for _ in range(6)]
    assert ["intervene_action" in info for info in infos] == [False, True, True, False, True, False]
    assert infos[-1]["intervention_count"] == 2 and infos[-1]["intervention_rate"] == 0.5
    assert infos[3]["intervention_count"] == 1 and infos[3]["intervention_rate"] == 0.5  # a time limit may lie outside
    assert infos[1]["grasp_penalty"] == -0.02  # of what was done, not of what the policy wanted


def test_the_scripted_source_watches_takes_over_and_fades():
    source = ScriptedSource(
        probability=1, episodes=10, patience=3, noise=0, expert=lambda env, noise, random: np.ones(4), seed=0
    )
    taken = []
    for _ in range(12):
        source.reset(None)
        taken.append([source.action(None) is not None for _ in range(6)])
    assert taken[0] == [False] * 3 + [True] * 3
    assert not any(any(episode) for episode in taken[10:])
    with pytest.raises(ValueError, match="probability=2"):
        ScriptedSource(probability=2)


def test_helpers_of_several_environments_draw_for_themselves():
    envs = [Intervention(gym.make("robots/pick_cube-v0"), ScriptedSource(probability=0.5)) for _ in range(3)]

    def helps(env, seed):
        env.reset(seed=seed)
        helped = []
        for _ in range(12):
            env.reset()
            helped.append(env.source._will)
        return helped

    first, other = helps(envs[0], 0), helps(envs[1], 1)
    assert first != other and helps(envs[2], 0) == first


def test_a_dense_reward_does_not_end_where_success_begins():
    env = PickCube(reward="dense")
    env.reset(seed=3)
    rewards = []
    for _ in range(40):
        _, reward, over, _, info = env.step(expert_action(env))
        rewards.append(reward)
        assert not over
    assert info["is_success"] and rewards[-1] > 0.9


def test_a_task_may_go_on_after_success():
    env = PickCube(terminate_on_success=False)
    env.reset(seed=3)
    steps = [env.step(expert_action(env)) for _ in range(40)]
    assert steps[-1][1] == 1 and not any(step[2] for step in steps) and sum(step[1] for step in steps) > 3


def test_flat_observations():
    env = FlatObservation(Scene())
    obs, _ = env.reset()
    assert env.observation_space.contains(obs) and sorted(obs) == ["front", "state"]
    np.testing.assert_array_equal(obs["state"], [1, 1, 0, 0, 0])
    pictures = FlatObservation(Scene(), ["front"])
    assert list(pictures.reset()[0]) == ["front"] == list(pictures.observation_space)
    only = FlatObservation(Scene(), ["block"])
    assert only.reset()[0].shape == (3,) == only.observation_space.shape
    with pytest.raises(ValueError, match="no observations"):
        FlatObservation(Scene(), ["side"])
    arm = spaces.Dict({"pos": spaces.Box(-1, 1, (3,))})
    with pytest.raises(ValueError, match="several observations called pos"):
        FlatObservation(SpacesOnly(spaces.Dict({"left": arm, "right": arm}), spaces.Box(-1, 1, (2,))))


def test_success_is_reported_as_sb3_counts_it():
    env = HilInfo(Scene())
    env.reset()
    assert [env.step(np.zeros(4))[4]["is_success"] for _ in range(6)] == [False] * 5 + [True]


def test_what_gym_hil_tells_is_understood():
    env = HilInfo(Scene())
    env.reset()
    told = {"is_intervention": True, "teleop_action": [1, 0, 0, 2], "discrete_penalty": -0.05}
    env.env.told = told
    info = env.step(np.zeros(4))[4]
    np.testing.assert_array_equal(info["intervene_action"], [1, 0, 0, 2])
    assert info["grasp_penalty"] == -0.05
    env.env.told = told | {"is_intervention": False}
    assert "intervene_action" not in env.step(np.zeros(4))[4]


def test_relative_frame(pick_cube):
    env = RelativeFrame(pick_cube)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs[:3], 0)
    absolute, _ = pick_cube.reset(seed=0)
    np.testing.assert_array_equal(obs[3:], absolute[3:])
    with pytest.raises(ValueError, match="robot tasks"):
        RelativeFrame(Scene())


def test_one_arm_of_two_by_hand():
    action = whole_action(np.array([1, 0, -2]), -1, 1, 2, True)
    np.testing.assert_array_equal(action, [0, 0, 0, 0, 1, 0, -1, -1])


def test_demonstrations_are_successes():
    env = gym.make("robots/pick_cube-v0")
    random = np.random.default_rng(0)
    arrays = record_demonstrations(env, lambda env: expert_action(env, 0.3, random), 2)
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    assert len(ends) == 2 and (arrays["rewards"][ends] == 1).all() and arrays["rewards"].sum() == 2
    assert arrays["grasp_penalty"].sum() == pytest.approx(-0.04)  # closed once in each
    assert set(np.unique(arrays["actions"][:, 3])) <= {-1, 0, 1}
    with pytest.raises(ValueError, match="of 100 attempts"):
        record_demonstrations(gym.make("robots/pick_cube-v0", max_episode_steps=1), lambda env: np.zeros(4), 1)


def test_an_interruption_keeps_what_is_finished():
    env, calls = gym.make("robots/pick_cube-v0"), []

    def act(env):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return expert_action(env)

    arrays = record_demonstrations(env, act, 50)
    assert 0 < len(arrays["rewards"]) < 40 and arrays["rewards"][-1] == 1
    calls[:] = [1] * 39  # at once
    assert record_demonstrations(env, act, 50) == {}


@pytest.mark.parametrize("task, right, forward", [("pick_cube", [0, 1, 0], [-1, 0, 0]), ("lift_tray", [1, 0, 0], [0, 1, 0])])
def test_directions_are_those_of_the_picture(task, right, forward):
    env = gym.make(f"robots/{task}-v0")
    env.reset(seed=0)
    np.testing.assert_array_equal(directions(env), [right, forward, [0, 0, 1]])


def test_frames_of_success_and_failure():
    env = gym.make("robots/pick_cube_images-v0", image_size=32)
    failure, success = record_frames(env, seed=1, noise=0.0, fumble=0.0, pretend=0.0)
    assert failure["front"].shape[1:] == (32, 32, 3) == success["wrist"].shape[1:]
    assert len(success["front"]) == 15 and len(failure["front"]) > 5
    failure, success = record_frames(env, seed=1, pretend=1.0)
    assert len(failure["front"]) > 5 and not success
    with pytest.raises(ValueError, match="with images"):
        record_frames(gym.make("robots/pick_cube-v0"), seed=0)


@pytest.mark.parametrize("options", [dict(render_mode="human"), dict(interventions="keyboard")], ids=str)
def test_a_window(options, monkeypatch):
    """Whoever helps by hand sees what happens."""
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(SOURCES, "keyboard", lambda **_: ScriptedSource(patience=0))
    env = gym.make("robots/pick_cube-v0", **options)
    assert env.render_mode == "human"
    env.reset(seed=0)
    *_, info = env.step(np.zeros(4, np.float32))
    assert env.get_wrapper_attr("screen_size") == (512, 256)  # all cameras
    assert ("intervene_action" in info) == ("interventions" in options)
    env.close()


def test_keys_held_with_shift_are_let_go(monkeypatch, pick_cube):
    """Whatever case a key is told in; and a held Tab, which repeats, changes arms once."""
    keyboard = SimpleNamespace(Listener=lambda **callbacks: SimpleNamespace(start=lambda: None, **callbacks))
    monkeypatch.setitem(sys.modules, "pynput", SimpleNamespace(keyboard=keyboard))
    source = KeyboardSource(n_arms=2)
    pick_cube.reset(seed=0)
    source._press(SimpleNamespace(char="o"))
    assert source.action(pick_cube) is not None
    source._release(SimpleNamespace(char="O"))
    assert source.action(pick_cube) is None
    for _ in range(2):
        source._press(SimpleNamespace(name="tab"))
    assert source._arm == 1


def test_a_gripper_knows_whether_it_holds_something_up(pick_cube):
    obs, _ = pick_cube.reset(seed=0)
    over = False
    while not over:
        assert not holds_up({"state": obs}) or obs[2] > 0.1
        obs, _, over, _, info = pick_cube.step(expert_action(pick_cube))
    assert info["is_success"] and holds_up({"state": obs})
    pick_cube.reset(seed=0)
    for _ in range(10):  # a fist with nothing in it
        obs, *_ = pick_cube.step(np.array([0, 0, 1, -1], np.float32))
    assert obs[2] > 0.1 and not holds_up({"state": obs})
    for command in (1, -1):  # fingers in motion: for one step closing ones are as far apart as round the cube
        moving = [pick_cube.step(np.array([0, 0, 0, command], np.float32))[0] for _ in range(5)]
        assert sum(holds_up({"state": obs}) for obs in moving) == (1 if command < 0 else 0)


def test_boxes_in_the_air_are_not_arranged():
    env = ArrangeBoxes()
    env.reset(seed=0)
    for height, arranged in ((HALF, True), (3 * HALF, False)):
        for i in range(N_BOXES):
            env.put(f"box{i}", (*env.position_of(f"mark{i}")[:2], height))
        mujoco.mj_forward(env.model, env.data)
        assert env.is_success() == arranged


def test_moving_the_gripper_again_costs_again():
    env = GripperPenalty(gym.make("robots/pick_cube-v0"), indices=[3], penalty=-0.5)
    env.reset(seed=0)
    penalties = [env.step(np.float32([0, 0, 0, command]))[4]["grasp_penalty"] for command in (-1, -1, 1, 0, -1)]
    assert penalties == [-0.5, 0, -0.5, 0, -0.5]
    env.reset(seed=0)
    assert env.step(np.float32([0, 0, 0, -1]))[4]["grasp_penalty"] == -0.5
