"""The python blocks of the buffers page run as they stand, shortened."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "buffers.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SETTING = """
import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from sb3_pgr import TensorReplayBuffer
env = make_vec_env("Pendulum-v1")
model = SAC("MlpPolicy", env, learning_starts=10, replay_buffer_class=TensorReplayBuffer)
demonstrations = model.learn(20).replay_buffer
"""


def shortened(block: str) -> str:
    block = block.replace("learn(100_000", "learn(30").replace('"HalfCheetah-v5"', '"Pendulum-v1"')
    return re.sub(r"buffer_size=\d+_\d+", "buffer_size=100", block)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if "CnnPolicy" not in block], ids=lambda block: block.split("\n")[-2][:40]
)
def test_block_runs(block):
    exec(SETTING + shortened(block), {})


def test_blocks_are_found():
    assert len(BLOCKS) >= 6
