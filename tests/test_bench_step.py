"""The step benchmark counts the products of a step, calls just those again, and leaves a table."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from omniloom.benchmarks import Options
from omniloom.benchmarks.step import Products, run


def test_products_are_counted_forward_and_backward_and_can_be_called_again() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 4)
    picture = torch.nn.Conv2d(3, 5, 2)
    with Products() as products:
        (linear(torch.ones(6, 8)).sum() + picture(torch.ones(1, 3, 4, 4)).relu().sum()).backward()
        torch.ones(2, 2).exp()
    counted = {str(what[0].overloadpacket): count for what, count in products.seen.items()}
    assert counted.pop("aten.addmm") == 1
    assert counted.pop("aten.mm") == 1, "of the weights: nobody asked for the input's gradient"
    assert counted == {"aten.convolution": 1, "aten.convolution_backward": 1}
    made = [call() for _, call in products.calls()]
    assert [tuple(one.shape) for one in made if isinstance(one, torch.Tensor)] == [(6, 4), (1, 5, 3, 3), (4, 8)]


def test_a_quick_run_leaves_a_table(tmp_path: Path) -> None:
    report = run(Options(quick=True, out=tmp_path))
    [case] = report["cases"].values()
    assert case["step / its products"]["median"] > 1
    assert 0 < case["data wait"] < 1
    assert 0.5 < sum(share for _, share, _ in case["operators"]) <= 1
    assert json.loads((tmp_path / "step.json").read_text()) == report
    assert "| mico-tiny | 3 |" in (tmp_path / "step.md").read_text()
