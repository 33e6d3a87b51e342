import os

import pytest
import torch as th

import sb3_pgr  # noqa: F401  (chooses a renderer before any test imports a simulator)

os.environ.setdefault("MPLBACKEND", "Agg")
# Commands that tests run compute with one thread: more of them than cores spend their time waiting for each other.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not th.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests use tiny networks, and several test processes share the machine."""
    th.set_num_threads(1)
