"""The python blocks of the pages run as they stand, shortened."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("buffers.md", "pgr.md", "offline.md", "td3_bc.md", "iql.md", "cql.md", "bcq.md", "bc.md", "gems.md", "robots.md")
BLOCKS = {page: re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL) for page in PAGES}
SETTING = """
import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from sb3_pgr import GenerativeReplayBuffer, TensorReplayBuffer
env = make_vec_env("Pendulum-v1")
model = SAC("MlpPolicy", env, learning_starts=10, replay_buffer_class=TensorReplayBuffer)
demonstrations = model.learn(20).replay_buffer
from sb3_pgr.offline.readers import load_dataset, save_npz
save_npz(load_dataset(SAC("MlpPolicy", env, learning_starts=1_000).learn(450).replay_buffer), "data.npz")
"""


def shortened(block: str) -> str:
    block = (
        block.replace("learn(100_000", "learn(30")
        .replace("learn(5_000", "learn(30")
        .replace("fit(100_000", "fit(30")
        .replace('"HalfCheetah-v5"', '"Pendulum-v1"')
    )
    return re.sub(r"buffer_size=\d+_\d+", "buffer_size=100", block)


@pytest.mark.parametrize(
    "block",
    [block for blocks in BLOCKS.values() for block in blocks if "CnnPolicy" not in block],
    ids=lambda block: block.split("\n")[-2][:40],
)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(SETTING + shortened(block), {})


def test_blocks_are_found():
    assert len(BLOCKS["buffers.md"]) >= 6 and len(BLOCKS["pgr.md"]) >= 4
