import os

import pytest
import torch as th

import sb3_pgr  # noqa: F401  (chooses a renderer before any test imports a simulator)

os.environ.setdefault("MPLBACKEND", "Agg")
# Commands that tests run compute with one thread: more of them than cores spend their time waiting for each other.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def one_thread():
    """Tests use tiny networks, and several test processes share the machine."""
    th.set_num_threads(1)
