"""Models of sizes that nobody can mean are refused in one line, and at once."""

import threading

import pytest
import torch
from torch.nn.modules.module import register_module_module_registration_hook

import blockzoo
from blockzoo import _size_limit
from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor, gaunt_tensor, paths


@pytest.mark.parametrize(
    ("name", "sizes", "variable"),
    [
        ("timesnet_forecast", {"num_kernels": 99999}, "BLOCKZOO_MAX_PARAMETERS"),
        ("timesnet_forecast", {"d_model": 9999, "d_ff": 999}, "BLOCKZOO_MAX_PARAMETERS"),
        ("timesnet_forecast", {"depth": 99999, "d_model": 2, "d_ff": 2, "num_kernels": 1}, "BLOCKZOO_MAX_LAYERS"),
    ],
)
def test_sizes_that_cannot_be_meant_name_the_limit_and_the_argument(name, sizes, variable):
    with pytest.raises(ValueError, match=variable) as refused:
        blockzoo.create_model(name, **sizes)
    first, value = next(iter(sizes.items()))
    assert f"{name} cannot be built with {first}={value}" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["tdn", "gaunt_l2", "cgnet_l2", "tdn_tensor"])
def test_degrees_beyond_all_tables_are_refused(name):
    with pytest.raises(ValueError, match="l_max=99999 must be from 1 to 11"):
        blockzoo.create_model(name, l_max=99999)


@pytest.mark.parametrize(("couple", "highest"), [(clebsch_gordan_tensor, 11), (gaunt_tensor, 16), (paths, 16)])
def test_couplings_are_bounded_by_degree(couple, highest):
    with pytest.raises(ValueError, match=f"l_max_in2={highest + 1} must be from 0 to {highest}"):
        couple(0, highest + 1, 0)
    assert len(couple(0, 0, 0)) == 1


def test_the_limits_are_the_users(monkeypatch):
    monkeypatch.setenv("BLOCKZOO_MAX_PARAMETERS", "86816")
    with pytest.raises(ValueError, match="more than 86,816 parameters"):
        blockzoo.create_model("fno1d")
    monkeypatch.setenv("BLOCKZOO_MAX_PARAMETERS", "100000")
    assert sum(p.numel() for p in blockzoo.create_model("fno1d").parameters()) == 86_817
    monkeypatch.setenv("BLOCKZOO_MAX_LAYERS", "3")
    with pytest.raises(ValueError, match="more than 3 layers"):
        blockzoo.create_model("fno1d")
    monkeypatch.setenv("BLOCKZOO_MAX_LAYERS", "many")
    with pytest.raises(ValueError, match="BLOCKZOO_MAX_LAYERS='many' must be a whole number above 0"):
        blockzoo.create_model("fno1d")


@pytest.mark.parametrize("device", [{}, {"device": "cpu"}])
def test_a_large_model_that_is_meant_has_the_values_of_its_seed(monkeypatch, device):
    torch.manual_seed(3)
    expected = blockzoo.create_model("raptor_cifar", **device)
    after = torch.rand(2)
    monkeypatch.setattr(_size_limit, "_LARGE", 100_000)
    torch.manual_seed(3)
    model = blockzoo.create_model("raptor_cifar", **device)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert torch.equal(torch.rand(2), after)


@pytest.mark.parametrize("name", blockzoo.list_models())
def test_every_model_can_be_tried_without_values(name):
    with torch.device("meta"):
        model = blockzoo.create_model(name)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_modules_of_other_threads_are_not_counted():
    with _size_limit._bounded({"BLOCKZOO_MAX_PARAMETERS": 1, "BLOCKZOO_MAX_LAYERS": 1}):
        made = []
        thread = threading.Thread(target=lambda: made.append(torch.nn.Linear(9, 9)))
        thread.start()
        thread.join()
    assert made[0].weight.shape == (9, 9)


def test_a_thread_makes_modules_while_another_builds_a_model():
    def elsewhere(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=_size_limit.build_within_limits, args=("it", small, small))
            thread.start()
            thread.join()

    def small():
        return torch.nn.Sequential(torch.nn.Linear(2, 2))

    # torch fails if its table of hooks changes while it goes through it.
    hooks = [register_module_module_registration_hook(hook) for hook in (elsewhere, lambda *_: None)]
    try:
        assert len(small()) == 1
    finally:
        for hook in hooks:
            hook.remove()


def test_nothing_is_counted_after_a_build_that_fails(monkeypatch):
    monkeypatch.setenv("BLOCKZOO_MAX_PARAMETERS", "9")

    def failing():
        torch.nn.Linear(2, 2)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        _size_limit.build_within_limits("it", failing, failing)
    assert torch.nn.Linear(9, 9).weight.shape == (9, 9)


def test_a_model_inside_of_another_counts_as_its_part(monkeypatch):
    monkeypatch.setenv("BLOCKZOO_MAX_PARAMETERS", "9")

    def outer():
        torch.nn.Linear(2, 2)
        return _size_limit.build_within_limits("inner", lambda: torch.nn.Linear(2, 2), lambda: None)

    with pytest.raises(ValueError, match="outer: it would have more than 9 parameters"):
        _size_limit.build_within_limits("outer", outer, outer)
