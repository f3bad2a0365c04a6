"""Tuning finds a configuration for every launch; see tests/kernels/test_interpreter.py."""

from blockzoo.kernels import _dispatch
from blockzoo.tasks.app.bench_kernels import kernel_cases, tune
from blockzoo.tasks.core.timing import Clock


def test_tuning_gives_a_table_that_launches_understand():
    make = kernel_cases()["residual_norm"].make
    case = make(1, 2, 3, device="cpu")
    case.launches = {name: {"num_warps": [1, 2]} for name in case.launches}
    table = tune([case], Clock("cpu"))
    assert sorted(table) == ["residual_norm", "residual_norm_backward"]
    for launch in table.values():
        ((entry,),) = [launch["configs"]]
        assert entry["sizes"] == {"dim": 3} and entry["config"]["num_warps"] in (1, 2)
    assert not _dispatch._trials
