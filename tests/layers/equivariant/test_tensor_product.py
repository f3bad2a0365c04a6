"""Tensor products: golden values, the modes against sums written out, and what the Gaunt product cannot do."""

import math

import pytest
import torch
from e3nn import o3

from blockzoo.layers import ClebschGordanProduct, CPTensorProduct, GauntProductBasis, GauntTensorProduct
from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor, gaunt_tensor, paths, sphere_grid
from blockzoo.layers.equivariant.edge_product import EdgeProduct
from blockzoo.layers.equivariant.irreps import component_degrees
from blockzoo.layers.equivariant.spherical_harmonics import spherical_harmonics

DOUBLE = {"dtype": torch.double}


def close(ours, theirs, tolerance=1e-12):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).detach().abs().max()) < tolerance * max(1.0, float(theirs.abs().max()))


@pytest.fixture
def double_by_default():
    """e3nn keeps its constants in the default type."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_gaunt_product_and_its_derivatives_are_the_golden_ones(golden, l_max):
    case = golden(f"gaunt_l{l_max}")
    x1, x2, v, u = (case.array(f"extra_{name}").requires_grad_() for name in ("x1", "x2", "v", "u"))
    full, short = GauntTensorProduct(l_max, l_max, **DOUBLE), GauntTensorProduct(l_max, l_max, l_max, **DOUBLE)
    assert (full.rank, short.rank) == tuple(case.meta["grids"][kind]["points"] for kind in ("full", "trunc"))
    close(full(x1, x2), case.array("extra_y_full64"))
    assert case.error("y_full", full.float()(x1.float(), x2.float())) < 2e-6
    full.double()  # constants come back in full precision
    y = short(x1, x2)
    close(y, case.array("extra_y_trunc64"))
    grad1, grad2 = torch.autograd.grad((y * v).sum(), (x1, x2), create_graph=True)
    close(grad1, case.array("extra_grad_x1"))
    close(grad2, case.array("extra_grad_x2"))
    hess_x2, hess_v = torch.autograd.grad((grad1 * u).sum(), (x2, v))
    close(hess_x2, case.array("extra_hess_x2"))
    close(hess_v, case.array("extra_hess_v"))
    weights = {f"weight{i}": case.array(f"extra_w{i}") for i in (1, 2, 3)}
    close(full(x1, x2, **weights), case.array("extra_y_weighted"))
    for wigner, rotated in zip(case.array("extra_wigner_d"), case.array("extra_y_full_rot"), strict=True):
        turn = wigner[: x1.shape[1], : x1.shape[1]]
        close(full(turn @ x1, turn @ x2), rotated)


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_clebsch_gordan_and_edge_products_are_the_golden_ones(golden, l_max):
    case = golden(f"gaunt_l{l_max}")
    x1, x2 = case.array("extra_x1"), case.array("extra_x2")
    close(ClebschGordanProduct(l_max, l_max, l_max, **DOUBLE)(x1, x2), case.array("extra_y_cg_w3j"))
    component = ClebschGordanProduct(l_max, l_max, l_max, normalization="component", **DOUBLE)
    close(component(x1, x2), case.array("extra_y_cg_component"))
    harmonics = spherical_harmonics(case.array("extra_r"), l_max)
    close(harmonics, case.array("extra_sh"))
    for make, name in ((clebsch_gordan_tensor, "cg"), (gaunt_tensor, "gaunt")):
        edge = EdgeProduct(make(l_max, l_max, l_max), **DOUBLE)
        close(edge(x1, harmonics), case.array(f"extra_y_edge_{name}"))
    tensor = gaunt_tensor(l_max, l_max, 2 * l_max)
    index, value = case.array("extra_gaunt_idx").long(), case.array("extra_gaunt_val")
    close(torch.zeros_like(tensor).index_put(tuple(index.T), value), tensor)


@pytest.mark.parametrize("l_max", [1, 2])
def test_many_body_features_are_the_golden_ones(golden, l_max):
    case = golden(f"gaunt_manybody_l{l_max}")
    x, element = case.array("extra_x").requires_grad_(), case.array("extra_element")
    weight = torch.stack([case.array(f"extra_w{n}") for n in (1, 2, 3)]).mT  # (power, element, degree, channel)
    basis = GauntProductBasis(l_max, 3, weight.shape[1], x.shape[2], **DOUBLE)
    basis.weight.data.copy_(weight)
    y = basis(x, element)
    close(y, case.array("extra_y64"))
    close(torch.autograd.grad((y * case.array("extra_v")).sum(), x)[0], case.array("extra_grad_x"))
    for n, power in enumerate(basis.power(x), start=1):
        close(power, case.array(f"extra_pow{n}"))
    assert basis.power.to_grid.shape[0] == case.meta["min_grid"][2]


@pytest.mark.parametrize("kind", ["cg", "cp", "gaunt"])
def test_modes_are_sums_over_channels(kind):
    d, u, v, w = 9, 3, 2, 4
    x1, x2 = torch.randn(5, d, u, **DOUBLE), torch.randn(5, d, v, **DOUBLE)
    if kind == "cg":
        tensor, make = clebsch_gordan_tensor(2, 2, 2), lambda mode: ClebschGordanProduct(2, 2, 2, mode, **DOUBLE)
    elif kind == "cp":
        tensor, make = clebsch_gordan_tensor(2, 2, 2), lambda mode: CPTensorProduct(2, "exact", mode, **DOUBLE)
    else:
        tensor, make = gaunt_tensor(2, 2, 2), lambda mode: GauntTensorProduct(2, 2, 2, mode, **DOUBLE)
    for lead in ((), (5,)):  # one weight for all rows, and one for each
        letter = "z" if lead else ""
        cases = {
            "uuu": (x1, x1 + 1, (u,), f"ijk,ziu,zju,{letter}u->zku"),
            "uvu": (x1, x2, (u, v), f"ijk,ziu,zjv,{letter}uv->zku"),
            "uvw": (x1, x2, (u, v, w), f"ijk,ziu,zjv,{letter}uvw->zkw"),
        }
        for mode, (a, b, shape, sums) in cases.items():
            weight = torch.randn(*lead, *shape, **DOUBLE)
            close(make(mode)(a, b, weight), torch.einsum(sums, tensor, a, b, weight), 1e-9)
    close(make("uvu")(x1, x2[..., :1]), torch.einsum("ijk,ziu,zjv->zku", tensor, x1, x2[..., :1]), 1e-9)
    close(
        make("uvw")(x1, x2[..., :1], weight[..., :1, :]), make("uvw")(x1, x2 * torch.tensor([1.0, 0.0]), weight), 1e-9
    )


@pytest.mark.parametrize(("mode", "shape"), [("uuu", (2,)), ("uvu", (2, 3)), ("uvw", (2, 3, 4))])
def test_path_weights_are_e3nns(mode, shape, double_by_default):
    l_max = 2
    irreps = {n: o3.Irreps([(n, (degree, 1)) for degree in range(l_max + 1)]) for n in (2, 3, 4)}
    channels = {"uuu": (2, 2, 2), "uvu": (2, 3, 2), "uvw": (2, 3, 4)}[mode]
    kept = paths(l_max, l_max, l_max)
    theirs = o3.TensorProduct(
        *[irreps[n] for n in channels],
        [(*path, mode, True, 1.0) for path in kept],
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
        shared_weights=True,
    )
    product = ClebschGordanProduct(l_max, l_max, l_max, mode, path_weights=True, **DOUBLE)
    weight = torch.randn(len(kept), *shape, **DOUBLE)
    x1, x2 = (torch.randn(3, 9, n, **DOUBLE) for n in channels[:2])

    def flat(x):  # (batch, components, channels) -> e3nn's channels outside
        return torch.cat([x[:, d**2 : (d + 1) ** 2].mT.flatten(1) for d in range(l_max + 1)], 1)

    close(flat(product(x1, x2, weight)), theirs(flat(x1), flat(x2), weight.flatten()))


@pytest.mark.parametrize("parity", ["so3", "o3"])
def test_exact_product_is_equivariant_and_parity_drops_pseudo_tensors(golden, parity):
    product = ClebschGordanProduct(3, 3, 3, parity=parity, **DOUBLE)
    x1, x2 = torch.randn(4, 16, 2, **DOUBLE), torch.randn(4, 16, 2, **DOUBLE)
    for wigner in golden("gaunt_l3").array("extra_wigner_d")[:, :16, :16]:
        close(product(wigner @ x1, wigner @ x2), wigner @ product(x1, x2))
    sign = (-1.0) ** torch.tensor(component_degrees(3), **DOUBLE).unsqueeze(1)
    mirrored = (product(sign * x1, sign * x2) - sign * product(x1, x2)).abs().max()
    assert mirrored < 1e-12 if parity == "o3" else mirrored > 0.1


def test_number_of_paths():
    assert [len(paths(n, n, n)) for n in range(1, 7)] == [5, 15, 34, 65, 111, 175]
    assert [len(paths(n, n, n, "o3")) for n in range(1, 7)] == [4, 11, 23, 42, 69, 106]


def test_gaunt_product_has_no_antisymmetric_path():
    a, b = torch.randn(6, 3, **DOUBLE), torch.randn(6, 3, **DOUBLE)

    def vectors(v):
        return torch.cat([torch.zeros(6, 1, **DOUBLE), v], 1).unsqueeze(2)

    gaunt = GauntTensorProduct(1, 1, 1, **DOUBLE)
    exact = ClebschGordanProduct(1, 1, 1, **DOUBLE)
    close(exact(vectors(a), vectors(b))[:, 1:, 0] * math.sqrt(6), torch.linalg.cross(a, b))
    assert gaunt(vectors(a), vectors(b))[:, 1:].abs().max() < 1e-14  # whatever weights come before and behind
    close(gaunt(vectors(a), vectors(b))[:, 0, 0], (a * b).sum(1) / math.sqrt(4 * math.pi))
    x1, x2 = torch.randn(6, 16, 2, **DOUBLE), torch.randn(6, 16, 2, **DOUBLE)
    product = GauntTensorProduct(3, 3, 3, **DOUBLE)
    close(product(x1, x2), product(x2, x1))


def test_grid_is_the_smallest_exact_one():
    points, weights = sphere_grid(6)
    assert len(points) == 28 and float(weights.sum()) == pytest.approx(4 * math.pi, abs=1e-13)
    y = spherical_harmonics(points, 3, "integral")
    close(torch.einsum("r,ri,rj->ij", weights, y, y), torch.eye(16, **DOUBLE))
    points, weights = sphere_grid(5)
    y = spherical_harmonics(points, 3, "integral")
    assert (torch.einsum("r,ri,rj->ij", weights, y, y) - torch.eye(16, **DOUBLE)).abs().max() > 0.1


def test_edge_product_from_factors_is_the_low_rank_product():
    x, y, w = torch.randn(7, 9, 5, **DOUBLE), torch.randn(7, 9, **DOUBLE), torch.randn(7, 5, **DOUBLE)
    low_rank = CPTensorProduct(2, "published", "uvu", **DOUBLE)
    edge = EdgeProduct(factors=(low_rank.a, low_rank.b, low_rank.c), **DOUBLE)
    close(edge(x, y, w), low_rank(x, y.unsqueeze(2), w.unsqueeze(2)))
    assert sorted(edge.state_dict()) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="either a coupling tensor or"):
        EdgeProduct()


@pytest.mark.parametrize("kind", [ClebschGordanProduct, GauntTensorProduct])
def test_compiles_exports_and_takes_bfloat16(kind):
    product = kind(2, 2, 2)
    x1, x2 = torch.randn(4, 9, 3), torch.randn(4, 9, 3)
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x1, x2), product(x1, x2))
    program = torch.export.export(product, (x1, x2), dynamic_shapes=[{0: torch.export.Dim("n", min=2)}] * 2)
    more = torch.randn(7, 9, 3)
    torch.testing.assert_close(program.module()(more, more), product(more, more))
    half = product(x1.bfloat16(), x2.bfloat16())
    assert half.dtype == torch.bfloat16 and (half.float() - product(x1, x2)).abs().max() < 0.1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="mode='uuw'"):
        GauntTensorProduct(1, mode="uuw")
    with pytest.raises(ValueError, match=r"x2 has shape \(2, 9, 3\), expected \(..., 4, channels\)"):
        GauntTensorProduct(1)(torch.zeros(2, 4, 3), torch.zeros(2, 9, 3))
    with pytest.raises(ValueError, match="equal channels"):
        GauntTensorProduct(1)(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="needs a weight"):
        GauntTensorProduct(1, mode="uvw")(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="5 paths"):
        ClebschGordanProduct(1, 1, 1, path_weights=True)(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), torch.ones(4, 3))
    with pytest.raises(ValueError, match="l_max_in2=-1"):
        ClebschGordanProduct(1, -1)
