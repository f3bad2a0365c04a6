"""TDN: parity with the official code, exact symmetries in float64, and what the original lacks."""

import copy

import pytest
import torch

import blockzoo
from blockzoo.layers.equivariant.neighbors import neighbor_list

SMALL = {"hidden_channels": 8, "depth": 2, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}
CASES = ("tdn_l1", "tdn_l2", "tdn_cp_l1_direct", "tdn_cp_l1_grad", "tdn_cp_l2_direct")


def build(name="tdn", **kwargs):
    """A small model in float64, in eval mode, with biases and references that are not zero."""
    torch.manual_seed(0)
    model = blockzoo.create_model(name, **{**SMALL, "dtype": torch.double, **kwargs}).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    if model.extensive:
        model.set_references(torch.arange(119.0) / 10, scale=1.5)
    return model


def molecules(batch_size=2, seed=1):
    inputs = blockzoo.create_model("tdn", **SMALL).example_inputs(batch_size, torch.Generator().manual_seed(seed))
    return inputs["positions"].double(), inputs["atomic_numbers"], inputs["batch"]


def crystal():
    cell = torch.tensor([[[3.9, 0.0, 0.0], [1.2, 3.6, 0.0], [-0.5, 0.8, 4.1]]], dtype=torch.double)
    positions = torch.tensor([[0.1, 0.2, 0.1], [0.4, 0.6, 0.5], [0.8, 0.3, 0.7]], dtype=torch.double) @ cell[0]
    numbers, batch = torch.tensor([6, 8, 1]), torch.zeros(3, dtype=torch.int64)
    return positions, numbers, batch, cell, torch.ones(1, 3, dtype=torch.bool)


def official_state(case):
    """Weights in the official layout, by the rules in the case's notes."""
    state, l_max, newer = case.state_dict(), case.meta["kwargs"]["lmax"], "extra_cp_a" in case.arrays
    for name, shape, _, _ in case.meta["table"]:
        if ".cp_tp." in name:
            kind = name[-4:]
            factor = case.array(f"extra_{kind}") if newer else 0.5 * case.noise(f"cp:{kind}:lmax{l_max}", shape)
            state[name] = factor.float()
        elif name == "rbf.std":
            state[name] = 0.1 + 0.05 * case.noise(name, shape).abs()
        elif name == "rbf.mean":
            state[name] = torch.linspace(0, 1, shape[-1]).view(shape)
        elif newer and (name.endswith("affine_weight") or name == "rbf.weight"):
            state[name] = 1 + 0.1 * case.noise(name, shape)
        elif newer and name.endswith("bias"):
            state[name] = 0.1 * case.noise(name, shape)
    return state


def published(case, **kwargs):
    given = case.meta["kwargs"]
    same = {"l_max": "lmax", "hidden_channels": "hidden_channels", "depth": "num_interactions"}
    sizes = {ours: given[theirs] for ours, theirs in {**same, "num_basis": "num_gaussians"}.items()}
    form = {"product": "cp", "rank": "published", "extensive": False, **kwargs}
    forces = "gradient" if given.get("gradient_force") else "direct"
    heads = given.get("num_heads", 4)
    return blockzoo.create_model("tdn", **sizes, num_heads=heads, forces=forces, **form).eval()


def golden_inputs(case):
    return [case.array(f"extra_{name}") for name in ("pos", "z", "batch")]


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_official_code(golden, name):
    case = golden(name)
    model = published(case)
    state = {f"blocks.{key[7]}._orig_mod.{key[9:]}" if key[:7] == "blocks." else key: value
             for key, value in official_state(case).items()}  # fmt: skip  # as torch.compile names them
    model.load_state_dict(blockzoo.convert_state_dict(model, state), strict=True)
    out = model(*golden_inputs(case))
    kept = case.array("extra_mask")  # the original drops isolated atoms; here they have no force
    forces = out["forces"] if kept is None else out["forces"][kept]
    assert case.error("energy", out["energy"]) < 1e-5
    assert case.error("forces", forces) < 5e-5
    if kept is not None:
        assert out["forces"][~kept].eq(0).all()
    if "rot_energy_rel" in case.meta:
        positions, *rest = golden_inputs(case)
        turned = model(positions @ case.array("extra_rot").T, *rest)
        assert case.error("energy_rot", turned["energy"]) < 1e-5
        assert case.error("forces_rot", turned["forces"][kept]) < 5e-5


def test_official_weights_with_the_exact_product_turn_with_the_molecule(golden):
    case = golden("tdn_cp_l2_direct")
    model = published(case, product="exact").double()
    model.load_state_dict(blockzoo.convert_state_dict(model, official_state(case)), strict=True)
    positions, numbers, batch = golden_inputs(case)
    positions, rotation = positions.double(), torch.linalg.qr(torch.randn(3, 3, dtype=torch.double))[0]
    rotation = rotation * torch.linalg.det(rotation)
    straight, turned = model(positions, numbers, batch), model(positions @ rotation.T, numbers, batch)
    torch.testing.assert_close(turned["energy"], straight["energy"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(turned["forces"], straight["forces"] @ rotation.T, rtol=1e-10, atol=1e-10)
    # The factors are off by 1 %, and so are the results.
    assert 1e-4 < case.error("forces", straight["forces"][case.array("extra_mask")].float()) < 0.2


def test_layers_with_different_factors_are_refused(golden):
    case = golden("tdn_l1")
    state = official_state(case)
    state["blocks.1.attn.tp2.cp_tp.cp_a"] = state["blocks.1.attn.tp2.cp_tp.cp_a"] + 1
    with pytest.raises(ValueError, match="differs from other layers' factors"):
        blockzoo.convert_state_dict(published(case), state)
    with pytest.raises(ValueError, match=r"entries that the model has not: blocks\.1\.norm1\."):
        other = {**SMALL, "hidden_channels": 32, "depth": 1}
        small = {key: value for key, value in official_state(case).items() if "blocks.1." not in key or "norm1" in key}
        blockzoo.convert_state_dict(blockzoo.create_model("tdn", **other), small)
    with pytest.raises(ValueError, match="hidden_channels=32, not 8"):
        blockzoo.convert_state_dict(blockzoo.create_model("tdn", **SMALL), official_state(case))


FORMS = [
    {},
    {"l_max": 2, "forces": "direct"},
    {"l_max": 2, "parity": "so3", "norm": "degree"},
    {"l_max": 3, "parity": "o3"},
    {"l_max": 2, "product": "gaunt"},
    {"product": "cp", "rank": "exact"},
    {"radial_basis": "bessel", "extensive": False},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_symmetries_hold_to_rounding(form):
    model = build(**form)
    positions, numbers, batch = molecules()
    out = model(positions, numbers, batch)

    def same(found, forces):
        torch.testing.assert_close(found["energy"], out["energy"], rtol=0, atol=1e-10)
        torch.testing.assert_close(found["forces"], forces, rtol=0, atol=1e-10)

    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.double))[0]
    rotation = rotation * torch.linalg.det(rotation)
    same(model(positions @ rotation.T, numbers, batch), out["forces"] @ rotation.T)
    same(model(positions + torch.tensor([3.0, -20.0, 7.0]), numbers, batch), out["forces"])
    order = torch.randperm(len(numbers))
    same(model(positions[order], numbers[order], batch[order]), out["forces"][order])
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.double))
    mirrored = model(positions @ mirror, numbers, batch)
    if model.parity == "o3" or form.get("product") == "gaunt":
        same(mirrored, out["forces"] @ mirror)
    else:  # as published: mirror images differ
        assert (mirrored["energy"] - out["energy"]).abs().max() > 1e-8
    if model.forces == "gradient":
        for graph in range(2):
            assert out["forces"][batch == graph].sum(0).abs().max() < 1e-12  # no net force


def methane():
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.double)
    return {
        "positions": torch.cat([torch.zeros(1, 3, dtype=torch.double), 1.09 * corners / 3**0.5]),
        "atomic_numbers": torch.tensor([6, 1, 1, 1, 1]),
    }


def carbon_dioxide():
    positions = torch.tensor([[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]], dtype=torch.double)
    return {"positions": positions, "atomic_numbers": torch.tensor([6, 8, 8])}


def benzene():
    angle = torch.arange(6, dtype=torch.double) * torch.pi / 3
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    numbers = torch.tensor([6, 1]).repeat_interleave(6)
    return {"positions": torch.cat([1.39 * ring, 2.48 * ring]), "atomic_numbers": numbers}


def diamond():
    cell = 1.785 * torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.double)
    positions = torch.tensor([[0, 0, 0], [0.25, 0.25, 0.25]], dtype=torch.double) @ cell
    periodic = {"cell": cell[None], "pbc": torch.ones(1, 3, dtype=torch.bool)}
    return {"positions": positions, "atomic_numbers": torch.tensor([6, 6]), **periodic}


def steepest_change(model, inputs):
    """The largest |ΔF| / |Δx| in eV/Å² near a geometry, for moves of one atom from 1e-6 to 1e-2 Å."""
    rest = model(**inputs)["forces"]
    found = []
    for step in (1e-6, 1e-4, 1e-2):
        moved = inputs["positions"].clone()
        moved[1] += step * torch.tensor([0.6, 0.64, 0.48], dtype=torch.double)
        found.append((model(**{**inputs, "positions": moved})["forces"] - rest).norm() / step)
    return torch.stack(found).max().item()


@pytest.mark.parametrize("geometry", [methane, carbon_dioxide, benzene, diamond])
@pytest.mark.parametrize("name", ["tdn", "gaunt_l2", "cgnet_l2"])
def test_forces_change_slowly_near_symmetric_geometries(name, geometry):
    sizes = {"l_max": 2, "hidden_channels": 16, "depth": 4}
    assert steepest_change(build(name, **sizes), geometry()) < 10


def test_the_published_norm_is_nearly_singular_at_symmetric_geometries():
    model = build("cgnet_l2", hidden_channels=16, depth=4, norm="degree", parity="so3")
    assert steepest_change(model, methane()) > 1e4  # what the warning in its docstring says


def test_the_published_form_keeps_its_norm_and_parity():
    for form in ({"product": "cp"}, {"extensive": False}, {"product": "cp", "extensive": False}):
        model = build(**form)
        assert (model.norm_type, model.parity) == ("degree", "so3")
    assert (build().norm_type, build().parity) == ("joint", "o3")
    for name in ("tdn.gfn2", "gaunt_l1.gfn2"):  # trained before the defaults changed
        model = blockzoo.create_model(name, pretrained=True)
        assert (model.norm_type, model.parity) == ("degree", "so3")


@pytest.mark.parametrize("form", [{}, {"l_max": 2, "product": "gaunt"}, {"extensive": False}], ids=str)
def test_forces_are_the_numerical_gradient_and_can_be_differentiated_again(form):
    model = build(**{**form, "depth": 1, "hidden_channels": 4})
    positions, numbers, batch = molecules()
    positions, numbers, batch = positions[:7].requires_grad_(), numbers[:7], batch[:7]
    edge_index, _ = neighbor_list(positions, model.cutoff, batch)

    def run(p, key):
        return model(p, numbers, batch, edge_index=edge_index)[key]

    (gradient,) = torch.autograd.grad(run(positions, "energy").sum(), positions)
    torch.testing.assert_close(run(positions, "forces"), -gradient, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(lambda p: run(p, "energy"), positions, fast_mode=True)
    assert torch.autograd.gradcheck(lambda p: run(p, "forces"), positions, fast_mode=True)
    weights = [p for name, p in model.named_parameters() if name.startswith(("basis", "blocks.0.attn"))]
    assert torch.autograd.gradcheck(lambda *_: run(positions, "forces"), weights, fast_mode=True)


def test_energy_is_smooth_across_the_cutoff():
    model, jumping = build(), build(smooth_cutoff=False)
    numbers = torch.tensor([6, 8, 1])

    def derivatives(model, x):
        positions = torch.zeros(3, 3, dtype=torch.double)
        positions[1, 0] = 1.1
        x = torch.tensor(x, dtype=torch.double, requires_grad=True)
        positions = positions + torch.zeros(3, 3, dtype=torch.double).index_put((torch.tensor(2), torch.tensor(1)), x)
        value = model(positions, numbers)["energy"].sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x)
        return torch.stack([value, first, second]).detach()

    inside, outside = derivatives(model, model.cutoff - 1e-7), derivatives(model, model.cutoff + 1e-7)
    assert (inside - outside).abs().max() < 1e-6 and inside[0] == pytest.approx(float(outside[0]), abs=1e-12)
    assert abs(derivatives(jumping, 4.5 - 1e-7) - derivatives(jumping, 4.5 + 1e-7))[0] > 1e-4
    pair = torch.tensor([[0.0, 0, 0], [4.5 - 1e-7, 0, 0]], dtype=torch.double)  # the only neighbour leaves
    alone = model(pair * 2, numbers[:2])["energy"]
    torch.testing.assert_close(model(pair, numbers[:2])["energy"], alone, rtol=0, atol=1e-12)


def test_energy_is_extensive_and_isolated_atoms_stay():
    model = build()
    positions, numbers, _ = molecules(1)
    one = model(positions, numbers)
    two = model(torch.cat([positions, positions + 50]), numbers.repeat(2))
    torch.testing.assert_close(two["energy"], 2 * one["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(two["forces"], one["forces"].repeat(2, 1), rtol=0, atol=1e-12)
    atom = torch.tensor([[90.0, 0, 0]], dtype=torch.double)
    far = model(torch.cat([positions, atom]), torch.cat([numbers, torch.tensor([26])]))
    torch.testing.assert_close(far["energy"], one["energy"] + model(atom, torch.tensor([26]))["energy"])
    assert far["forces"][-1].eq(0).all()
    published_form = build(extensive=False)
    assert published_form(atom, torch.tensor([26]))["energy"].eq(0).all()


@pytest.mark.parametrize("name", ["tdn", "tdn_tensor"])
def test_an_empty_batch_has_empty_results(name):
    model = blockzoo.create_model(name, **SMALL)
    outputs = model(**model.example_inputs(0))
    shapes = {key: tuple(value.shape) for key, value in outputs.items()}
    assert shapes == ({"energy": (0,), "forces": (0, 3)} if name == "tdn" else {"tensor": (0, 3, 3)})


@pytest.mark.parametrize("forces", ["gradient", "direct"])
def test_a_batch_is_its_graphs_and_the_order_of_edges_is_free(forces):
    model = build(forces=forces, l_max=2)
    positions, numbers, batch = molecules(3)
    out = model(positions, numbers, batch)
    for graph in range(3):
        mine = batch == graph
        alone = model(positions[mine], numbers[mine])
        torch.testing.assert_close(alone["energy"], out["energy"][[graph]], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone["forces"], out["forces"][mine], rtol=0, atol=1e-12)
    edge_index, _ = neighbor_list(positions, model.cutoff, batch)
    shuffled = edge_index[:, torch.randperm(edge_index.shape[1])]
    again = model(positions, numbers, batch, edge_index=shuffled, num_graphs=3)
    torch.testing.assert_close(again["energy"], out["energy"], rtol=0, atol=1e-12)
    torch.testing.assert_close(again["forces"], out["forces"], rtol=0, atol=1e-12)


def test_stress_is_the_derivative_by_strain():
    model = build(l_max=2)
    positions, numbers, batch, cell, pbc = crystal()
    out = model(positions, numbers, batch, cell, pbc)
    edge_index, shifts = neighbor_list(positions, model.cutoff, batch, cell, pbc)
    volume, step = torch.linalg.det(cell[0]).abs(), 1e-5
    for i in range(3):
        for j in range(3):
            energies = []
            for sign in (1, -1):
                strain = torch.eye(3, dtype=torch.double)
                strain[i, j] += sign * step / 2
                strain[j, i] += sign * step / 2
                moved = (positions @ strain, numbers, batch, cell @ strain, None, edge_index, shifts)
                energies.append(model(*moved)["energy"].item())
            numeric = (energies[0] - energies[1]) / (2 * step) / volume
            assert out["stress"][0, i, j].item() == pytest.approx(float(numeric), abs=1e-8)
    assert out["stress"].abs().max() > 1e-5


def test_crystals_do_not_know_where_their_cell_begins():
    model = build()
    positions, numbers, batch, cell, pbc = crystal()
    out = model(positions, numbers, batch, cell, pbc)
    moved = positions + torch.tensor([[1.0], [-2.0], [0.0]], dtype=torch.double) * cell[0, 0] - cell[0, 2]
    other = model(moved, numbers, batch, cell, pbc)
    doubled = cell * torch.tensor([2.0, 1.0, 1.0], dtype=torch.double).view(1, 3, 1)
    twice = torch.cat([positions, positions + cell[0, 0]])
    super_cell = model(twice, numbers.repeat(2), batch.repeat(2), doubled, pbc)
    torch.testing.assert_close(super_cell["energy"], 2 * out["energy"], rtol=1e-10, atol=0)
    for key in ("energy", "forces", "stress"):
        torch.testing.assert_close(other[key], out[key], rtol=0, atol=1e-10)
    torch.testing.assert_close(super_cell["stress"], out["stress"], rtol=0, atol=1e-10)
    free_positions, free_numbers, _ = molecules(1)
    both = model(
        torch.cat([positions, free_positions]),
        torch.cat([numbers, free_numbers]),
        torch.cat([batch, torch.ones_like(free_numbers)]),
        torch.cat([cell, torch.zeros_like(cell)]),
        torch.cat([pbc, ~pbc]),
    )
    torch.testing.assert_close(both["energy"][:1], out["energy"], rtol=0, atol=1e-10)
    torch.testing.assert_close(both["energy"][1:], model(free_positions, free_numbers)["energy"], rtol=0, atol=1e-10)
    assert both["stress"][1].eq(0).all()


def _saved_bytes(run):
    """Bytes that autograd keeps for the backward passes of a call, and what the call returns."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return run(), sum(sizes)


@pytest.mark.parametrize(
    "form", [{}, {"l_max": 2, "product": "gaunt"}, {"extensive": False}, {"forces": "direct"}], ids=str
)
@pytest.mark.parametrize("limit", [1, 40])
def test_a_large_graph_is_computed_in_parts_with_the_same_results(form, limit, monkeypatch):
    model = build(**form)
    far = torch.tensor([[40.0, 0, 0]], dtype=torch.double)  # an isolated atom: a receiver without edges
    positions, numbers, batch = molecules(3)
    inputs = torch.cat([positions, far]), torch.cat([numbers, numbers[:1]]), torch.cat([batch, batch[-1:]])
    edge_index, _ = neighbor_list(inputs[0], model.cutoff, inputs[2])
    edge_index = edge_index[:, torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(0))]
    whole, kept = _saved_bytes(lambda: model(*inputs, edge_index=edge_index))
    monkeypatch.setattr("blockzoo.tdn._PART", limit * (model.l_max + 1) ** 2 * model.hidden_channels)
    with torch.no_grad():
        parts, kept_by_parts = _saved_bytes(lambda: model(*inputs, edge_index=edge_index))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-12, atol=1e-12)
    assert kept_by_parts < 0.3 * kept
    again = model(*inputs, edge_index=edge_index)["forces"]  # with a graph of its own, also in parts
    if model.forces == "gradient":
        weight = model.embed.weight
        slopes = [torch.autograd.grad(found.square().sum(), weight)[0] for found in (whole["forces"], again)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_a_crystal_in_parts_has_the_same_stress(monkeypatch):
    model, given = build(), crystal()
    whole = model(*given)
    monkeypatch.setattr("blockzoo.tdn._PART", 25 * 4 * model.hidden_channels)
    with torch.no_grad():
        parts = model(*given)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-12, atol=1e-12)


def test_gradients_flow_only_where_they_are_wanted():
    model = build()
    inputs = molecules()
    expected = model(*inputs)
    assert expected["forces"].requires_grad
    with torch.no_grad():
        plain = model(*inputs)
    with torch.inference_mode():
        inference = model(*molecules())
    for found in (plain, inference):
        assert not found["forces"].requires_grad and not found["energy"].requires_grad
        torch.testing.assert_close(found["forces"], expected["forces"].detach())
    model.train().set_grad_checkpointing()
    model(*inputs)["forces"].square().sum().backward()
    saved = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.set_grad_checkpointing(False)
    model.zero_grad()
    model(*inputs)["forces"].square().sum().backward()
    assert set(dict(model.named_parameters())) - set(saved) == {"head.2.bias"}  # a constant energy has no force
    for name, gradient in saved.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad)


def test_references_scales_and_elements():
    model = build()
    positions, numbers, batch = molecules()
    raw = build()
    raw.set_references(torch.zeros(119), scale=1.0)
    known = sorted(set(numbers.tolist()))
    model.set_references({z: -float(z) for z in known}, scale=2.0)
    shift = torch.zeros(2, dtype=torch.double).index_add(0, batch, -numbers.double())
    expected = raw(positions, numbers, batch)
    out = model(positions, numbers, batch)
    torch.testing.assert_close(out["energy"], 2 * expected["energy"] + shift)
    torch.testing.assert_close(out["forces"], 2 * expected["forces"])
    assert model.elements == known
    copy = build()
    copy.load_state_dict(model.state_dict())
    assert copy.elements == known and torch.equal(copy(positions, numbers, batch)["energy"], out["energy"])
    with pytest.raises(ValueError, match=r"atomic_numbers has \[92\], elements that this model does not know"):
        model(positions, torch.full_like(numbers, 92), batch)
    with pytest.raises(ValueError, match="from 119 to 119 must be in 0 .. 118"):
        model(positions, torch.full_like(numbers, 119), batch)
    with pytest.raises(ValueError, match="outside 0 .. 118"):
        model.set_references({200: 1.0})
    with pytest.raises(ValueError, match="extensive=False has no references"):
        build(extensive=False).set_references({1: 0.0})


@pytest.mark.parametrize("forces", ["gradient", "direct"])
def test_compiles_in_one_graph_also_for_training_on_forces(forces):
    model = build(forces=forces, depth=1)
    inputs = model.example_inputs(2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for key, value in model(**inputs).items():
        torch.testing.assert_close(compiled(**inputs)[key], value)
    gradients = []
    for function in (model, compiled):
        model.zero_grad()
        out = function(**inputs)
        (out["forces"].square().sum() + out["energy"].sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for eager, other in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, other)


def test_direct_forces_export_with_any_number_of_atoms_edges_and_graphs():
    model = build(forces="direct", depth=1)
    inputs, fresh = model.example_inputs(2), model.example_inputs(4)
    atoms, edges, graphs = (torch.export.Dim(name, min=2) for name in ("atoms", "edges", "graphs"))
    shapes = {"positions": {0: atoms}, "atomic_numbers": {0: atoms}, "batch": {0: atoms}, "cell": {0: graphs}}
    program = torch.export.export(model, (), inputs, dynamic_shapes={**shapes, "edge_index": {1: edges}})
    for key, value in model(**fresh).items():
        torch.testing.assert_close(program.module()(**fresh)[key], value)


def test_plain_export_of_gradients_says_what_to_do_instead():
    model = build(depth=1)
    with pytest.raises(RuntimeError, match="molecules.export.export_program"):
        torch.export.export(model, (), model.example_inputs(1))


@pytest.mark.parametrize("forces", ["gradient", "direct"])
def test_mixed_precision_and_single_precision_agree(forces):
    model = build(forces=forces)
    positions, numbers, batch = molecules()
    expected = model(positions, numbers, batch)
    single = build(forces=forces).float()
    out = single(positions.float(), numbers, batch)
    torch.testing.assert_close(out["energy"].double(), expected["energy"], rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = single(positions.float(), numbers, batch)
    assert mixed["energy"].dtype == torch.float64 and mixed["forces"].dtype == torch.float32
    torch.testing.assert_close(mixed["energy"].double(), expected["energy"], rtol=2e-2, atol=2e-2)
    back = single.double()  # constants come back in full precision, weights cannot
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.double))[0]
    rotation = rotation * torch.linalg.det(rotation)
    turned = back(positions @ rotation.T, numbers, batch)["energy"]
    torch.testing.assert_close(turned, back(positions, numbers, batch)["energy"], rtol=0, atol=1e-10)


def test_references_keep_their_precision_in_any_type():
    model = blockzoo.create_model("tdn", **SMALL)
    model.set_references({1: -13.605693122994, 53: -190_123.456789012})
    expected = torch.tensor([-13.605693122994, -190_123.456789012], dtype=torch.double)
    for cast in (lambda m: m, lambda m: m.half(), lambda m: m.float(), lambda m: m.double(), copy.deepcopy):
        model = cast(model)
        assert torch.equal(model.references[[1, 53]], expected)
    other = blockzoo.create_model("tdn", **SMALL)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.references[[1, 53]], expected)
    with torch.device("meta"):
        empty = blockzoo.create_model("tdn", **SMALL)
    assert empty.to_empty(device="cpu").references.dtype == torch.float64


def test_presets_have_the_sizes_of_the_paper():
    published_count, elements = 4_476_676, 119 - 80
    merged = 256 * 256 + 256 + 1  # the constant's map and the element's bias are merged; a bias that no force reads
    for family in ("tdn", "gaunt", "cgnet"):
        with torch.device("meta"):
            model = blockzoo.create_model(f"{family}_l1", forces="direct")
        assert sum(p.numel() for p in model.parameters()) == published_count - merged + elements * 256
    assert blockzoo.list_models("*_l[123]", modality="graph") == [
        f"{family}_l{degree}" for family in ("cgnet", "gaunt", "tdn") for degree in (1, 2, 3)
    ]
    tensors = [build(name, depth=1).product.coupling() for name in ("tdn_l2", "cgnet_l2", "gaunt_l2")]
    assert torch.equal(tensors[0], tensors[1]) and not torch.equal(tensors[0], tensors[2])
    torch.testing.assert_close(tensors[0].norm(), tensors[2].norm())


def test_wrong_arguments_are_named():
    for wrong, message in (
        ({"l_max": 0}, "l_max=0"),
        ({"forces": "none"}, "forces='none'"),
        ({"product": "fast"}, "product='fast'"),
        ({"product": "cp", "rank": 9}, r"rank=9 .*\[7, 8\]"),
        ({"product": "cp", "l_max": 4}, "no shipped CP factors"),
        ({"product": "cp", "parity": "o3"}, "parity='o3' needs product='exact' or 'gaunt'"),
        ({"parity": "p"}, "parity='p'"),
        ({"norm": "layer"}, "norm='layer' must be 'joint' or 'degree'"),
        ({"hidden_channels": 9}, "hidden_channels=9 must be divisible by num_heads=2"),
        ({"radial_basis": "spline"}, "radial_basis='spline'"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**wrong)
    model = build()
    positions, numbers, batch = molecules()
    with pytest.raises(ValueError, match=r"must be \(N, 3\) and \(N,\)"):
        model(positions, numbers[:-1], batch)
    with pytest.raises(ValueError, match="shifts are given without a cell"):
        edge_index, _ = neighbor_list(positions, 4.5, batch)
        model(positions, numbers, batch, edge_index=edge_index, shifts=torch.zeros(edge_index.shape[1], 3))
    with pytest.raises(ValueError, match="pbc is given without a cell"):
        model(positions, numbers, batch, pbc=torch.ones(2, 3, dtype=torch.bool))
