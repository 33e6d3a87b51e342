"""The update engine: what it returns, and that every mode does the same."""

import pytest
import torch as th

from sb3_pgr.common.engine import UpdateEngine
from sb3_pgr.common.optimizers import set_learning_rate

CPU = th.device("cpu")


def test_metrics_are_means_over_the_updates_that_report_them():
    def update(batch, flag):
        metrics = {"always": batch["x"].mean()}
        return metrics | {"sometimes": batch["x"].sum()} if flag else metrics

    block = {"x": th.arange(6.0).reshape(3, 2)}
    assert UpdateEngine(CPU).run(update, block, [True, False, True]) == {"always": 2.5, "sometimes": 5.0}


def test_batches_come_in_order_and_nested():
    seen = []

    def update(batch, flag):
        seen.append((batch["obs"]["a"].item(), batch["x"].item(), flag))
        return {"x": batch["x"]}

    block = {"obs": {"a": th.tensor([1.0, 2.0])}, "x": th.tensor([3.0, 4.0])}
    UpdateEngine(CPU).run(update, block, [False, True])
    assert seen == [(1.0, 3.0, False), (2.0, 4.0, True)]


@pytest.mark.parametrize("precision, dtype", [("fp32", th.float32), ("bf16", th.bfloat16)])
def test_precision_is_that_of_matrix_products(precision, dtype):
    layer = th.nn.Linear(3, 2)
    assert UpdateEngine(CPU, precision=precision).wrap(layer)(th.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == th.float32


@pytest.mark.parametrize("as_tensor", [False, True])
def test_learning_rate_is_set_in_place_where_it_is_a_tensor(as_tensor):
    rate = th.tensor(0.1) if as_tensor else 0.1
    optimizer = th.optim.Adam([th.nn.Parameter(th.ones(1))], lr=rate, fused=True)
    set_learning_rate(optimizer, 0.25)
    assert float(optimizer.param_groups[0]["lr"]) == 0.25
    assert (optimizer.param_groups[0]["lr"] is rate) == as_tensor
