"""Pieces of a pointwise block: the same outputs, gradients and gradients of gradients as the definition."""

import itertools

import pytest
import torch

from blockzoo.layers.spectral import pointwise
from blockzoo.layers.spectral.pointwise import PointBlock, RowTables, point_block, runs_in_pieces

SKIPS = ("matrix", "gate", "identity", None)
BLOCKS = [
    PointBlock(skip, mlp, mlp_skip, inside, behind)
    for skip, mlp, mlp_skip, inside, behind in itertools.product(
        SKIPS, (True, False), SKIPS, (True, False), (True, False)
    )
    if mlp or mlp_skip is None
]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(pointwise, "PIECE", 40)


def tensors(block, chans, hidden, out):
    """Fields h and x of 21 points, and weights."""

    def new(*shape):
        return torch.randn(*shape, dtype=torch.double, requires_grad=True)

    skips = {"matrix": lambda: new(out, chans), "gate": lambda: new(chans)}
    mlp = [new(hidden, chans), new(hidden), new(out, hidden), new(out)] if block.mlp else [None] * 4
    weights = [skips.get(block.skip, lambda: None)(), *mlp, skips.get(block.mlp_skip, lambda: None)()]
    return new(3, 7, chans), new(3, 7, chans) if block.skip or block.mlp_skip else None, weights


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("hidden", [3, 8])
def test_pieces_equal_the_definition(block, hidden):
    h, x, weights = tensors(block, 5, hidden, 5)
    assert runs_in_pieces([h], weights)
    (z, a), expected = point_block(block, h, x, weights), block.plain(h, x, *weights)
    assert a is None
    torch.testing.assert_close(z, expected)
    with torch.no_grad():
        torch.testing.assert_close(point_block(block, h, x, weights)[0], expected)
        torch.testing.assert_close(point_block(block, h.clone(), x, weights, overwrite=True)[0], expected)
    given = [t for t in (h, x, *weights) if t is not None]
    cotangent = torch.randn_like(z)
    wanted = torch.autograd.grad(expected, given, cotangent, create_graph=True)
    found = torch.autograd.grad(z, given, cotangent, create_graph=True)
    for once, ours, reference in zip(
        torch.autograd.grad(z, given, cotangent, retain_graph=True), found, wanted, strict=True
    ):
        torch.testing.assert_close(once, reference)
        torch.testing.assert_close(ours, reference)
    if any(gradient.requires_grad for gradient in wanted):
        second = [
            torch.autograd.grad(sum(g.square().sum() for g in gradients), given, materialize_grads=True)
            for gradients in (found, wanted)
        ]
        for ours, reference in zip(*second, strict=True):
            torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize(("chans", "hidden", "out"), [(3, 6, 2), (2, 6, 5), (6, 2, 3)])
def test_an_mlp_may_change_the_number_of_channels(chans, hidden, out):
    block = PointBlock()
    h, x, weights = tensors(block, chans, hidden, out)
    (z, a), expected = point_block(block, h, x, weights), block.plain(h, x, *weights)
    assert a is None
    torch.testing.assert_close(z, expected)
    for ours, reference in zip(
        *[torch.autograd.grad(y.square().sum(), [h, *weights[1:5]]) for y in (z, expected)], strict=True
    ):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("kind", SKIPS)
def test_only_some_gradients_are_asked_for(kind):
    block = PointBlock(kind, True, kind, True, True)
    h, x, weights = tensors(block, 5, 3, 5)
    given = [t for t in (h, x, *weights) if t is not None]
    for only in given:
        for t in given:
            t.requires_grad_(t is only)
        found, expected = (
            torch.autograd.grad(y.square().sum(), only)[0]
            for y in (point_block(block, h, x, weights)[0], block.plain(h, x, *weights))
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", BLOCKS[::3])
@pytest.mark.parametrize(
    ("front", "behind", "used"),
    [(True, True, [0, 1]), (True, True, [0]), (True, True, [1]), (True, False, [0]), (False, True, [0, 1])],
)
def test_transforms_along_the_last_axis_equal_the_definition(block, front, behind, used):
    _, x, weights = tensors(block, 5, 3, 5)
    h = torch.randn(3, 4 if front else 7, 5, dtype=torch.double, requires_grad=True)
    synthesis = torch.randn(7, 4, dtype=torch.double) if front else None
    analysis = torch.randn(2, 7, dtype=torch.double) if behind else None
    tables = RowTables(synthesis, analysis)
    z = block.plain(h if synthesis is None else synthesis @ h, x, *weights)
    expected = [z] if analysis is None else [z, analysis @ z]
    with torch.no_grad():
        for ours, reference in zip(point_block(block, h, x, weights, tables), expected, strict=False):
            torch.testing.assert_close(ours, reference)
    found = [t for t in point_block(block, h, x, weights, tables) if t is not None]
    assert len(found) == len(expected)
    found, expected = [found[i] for i in used], [expected[i] for i in used]
    given = [t for t in (h, x, *weights) if t is not None]
    cotangents = [torch.randn_like(t) for t in found]

    def gradients(results, **options):
        return torch.autograd.grad(results, given, cotangents, materialize_grads=True, **options)

    wanted = gradients(expected, create_graph=True)
    for once, ours, reference in zip(
        gradients(found, retain_graph=True), gradients(found, create_graph=True), wanted, strict=True
    ):
        torch.testing.assert_close(once, reference)
        torch.testing.assert_close(ours, reference)
    if any(gradient.requires_grad for gradient in wanted):
        second = [
            torch.autograd.grad(sum(g.square().sum() for g in first), given, materialize_grads=True)
            for first in (gradients(found, create_graph=True), wanted)
        ]
        for ours, reference in zip(*second, strict=True):
            torch.testing.assert_close(ours, reference)


def test_transforms_graphs_autocast_and_small_fields_go_without_pieces():
    h = torch.randn(100, 5)
    assert runs_in_pieces([h], []) and not runs_in_pieces([h[:2]], []) and not runs_in_pieces([h.bfloat16()], [])
    assert runs_in_pieces([h[:2]], [torch.randn(21, 5)]), "the widest field counts"
    assert not runs_in_pieces([h], [torch.randn(5).double(), None])
    with torch.autocast("cpu"):
        assert not runs_in_pieces([h], [])
    found = []
    torch.func.grad(lambda x: (found.append(runs_in_pieces([x], [])), x.sum())[1])(h)
    assert found == [False]
