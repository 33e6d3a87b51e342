import os

import pytest
import torch as th

import sb3_pgr  # noqa: F401  (chooses a renderer before any test imports a simulator)

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests use tiny networks, and several test processes share the machine."""
    th.set_num_threads(1)
