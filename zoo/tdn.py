"""TDN: tensor decomposition networks for energies and forces of atoms, and the same backbone with other products.

Sources: "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025), and its
code in AIRS, whose outputs these models reproduce from the same weights; "Enabling Efficient Equivariant Operations in
the Fourier Basis via Gaunt Tensor Products" (2024).

What differs from that code, unless `extensive=False` asks for the published form: the product with an edge's harmonics
is exact (and faster, see `blockzoo.layers.equivariant.edge_product`), mirror images get the same energy, norms stay
smooth where symmetry makes features vanish, the energy is a sum over all atoms with references for each element and
goes smoothly to its limit at the cutoff, forces are its gradient, isolated atoms are kept, elements go up to 118, and
cells may be periodic. In any form: consecutive linear maps with nothing between them are merged; only results that are
used are computed.

Positions are in Å. Energies have the unit of the references, forces that per Å.
"""

import math
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from timm.models._registry import generate_default_cfgs
from torch import nn
from torch.utils.checkpoint import checkpoint

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive
from blockzoo._builder import build_model
from blockzoo._cfg import ZooCfg, from_manifest, graph_cfg, tags_of
from blockzoo._elements import ElementModel, wide_dtype
from blockzoo._model import ZooModel
from blockzoo._registry import register_model
from blockzoo._tdn_layout import from_official
from blockzoo.kernels._dispatch import use_kernel
from blockzoo.kernels.edge_product import make_segments
from blockzoo.layers.equivariant.coupling import MAX_WIGNER, Parity, clebsch_gordan_tensor, gaunt_tensor
from blockzoo.layers.equivariant.cp_factors import cp_factors
from blockzoo.layers.equivariant.derivatives import value_and_slope
from blockzoo.layers.equivariant.edge_attention import EdgeAttention, EdgeDegree, EdgeParts, Edges, split_edges
from blockzoo.layers.equivariant.edge_product import EdgeProduct
from blockzoo.layers.equivariant.irreps import Gate, IrrepsLayerNorm, IrrepsLinear, IrrepsRMSNorm
from blockzoo.layers.equivariant.neighbors import neighbor_list
from blockzoo.layers.equivariant.radial import BesselBasis, GaussianBasis, polynomial_envelope
from blockzoo.layers.equivariant.segment import segment_sum
from blockzoo.layers.equivariant.spherical_harmonics import spherical_harmonics

__all__ = ["TDN"]

about = FamilyAbout(
    title="TDN, Gaunt and cgnet",
    purpose=(
        "Give the energy of molecules and crystals and the forces on their atoms, for molecular dynamics far "
        "faster than quantum chemistry. Forces turn with the molecule; the three differ in how they multiply "
        "directions."
    ),
    paper="Gaunt Tensor Products (2024), Tensor Decomposition Networks",
    year=2025,
    small=tuple(
        Small(
            name,
            covers,
            {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2},
        )
        for name, covers in (
            ("tdn", ("tdn", "tdn_l*")),
            ("gaunt_l1", ("gaunt_*",)),
            ("cgnet_l1", ("cgnet_*",)),
        )
    ),
)

Forces = Literal["gradient", "direct"]
Product = Literal["exact", "cp", "gaunt"]
Norm = Literal["joint", "degree"]

NUM_ELEMENTS = 119
"""Atomic numbers from 0, which stands for a particle that is no element, to 118."""

_PUBLISHED_NODES = 36.6
"""Atoms of a graph in the training set of the published model; its energy is the sum over the square root of this."""

_PART = 2**22
"""Numbers in the messages of the edges that are computed at once in large graphs, 16 MB in float32."""


def edge_product(l_max: int, product: Product, rank: int | str, parity: Parity, **dd: Any) -> EdgeProduct:
    """Build the product with an edge's harmonics from a model's arguments; see `TDN`."""
    if l_max > MAX_WIGNER:
        raise ValueError(f"l_max={l_max} must be from 1 to {MAX_WIGNER}")
    exact = clebsch_gordan_tensor(l_max, l_max, l_max, parity=parity)
    if product == "exact":
        return EdgeProduct(exact, **dd)
    if product == "gaunt":
        tensor = gaunt_tensor(l_max, l_max, l_max)
        return EdgeProduct(tensor * (exact.norm() / tensor.norm()), **dd)
    if product != "cp":
        raise ValueError(f"product={product!r} must be one of {', '.join(get_args(Product))}")
    if parity != "so3":
        raise ValueError(f"product='cp' is fitted to all paths; parity={parity!r} needs product='exact' or 'gaunt'")
    return EdgeProduct(factors=cp_factors(l_max, rank), **dd)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}")


_NORMS: dict[str, type[nn.Module]] = {"joint": IrrepsRMSNorm, "degree": IrrepsLayerNorm}


class TDNBlock(nn.Module):
    """Attention over edges and a gated feed-forward network, each after a norm; see `TDN` for the arguments."""

    def __init__(
        self,
        channels: int,
        l_max: int,
        num_basis: int,
        radial_hidden: int,
        num_heads: int,
        drop_rate: float,
        norm: Norm,
        scalars_only: bool,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.scalars_only = scalars_only
        self.norm1 = _NORMS[norm](channels, l_max, **dd)
        self.attn = EdgeAttention(channels, num_basis, radial_hidden, num_heads, drop_rate, scalars_only, **dd)
        self.norm2 = _NORMS[norm](channels, l_max, **dd)
        self.fc1 = IrrepsLinear(channels, channels, **dd)
        self.gates = None if scalars_only else nn.Linear(channels, channels, **dd)
        self.act = Gate()
        self.fc2 = IrrepsLinear(channels, channels, **dd)

    def forward(self, x: torch.Tensor, edges: Edges | EdgeParts) -> torch.Tensor:
        """(N, d, C) -> (N, d, C), or (N, 1, C) if only scalars are used after it."""
        y = self.attn(self.norm1(x), edges)
        x = x[:, : y.shape[1]] + y
        y = self.norm2(x)
        hidden = self.fc1(y)
        hidden = F.silu(hidden) if self.gates is None else self.act(hidden, self.gates(y[:, 0]))
        return x + self.fc2(hidden)


class TDN(ElementModel):
    """Model of energies and forces of molecules and crystals.

    Args:
        l_max: Highest degree of features and spherical harmonics.
        hidden_channels: Channels of every degree, divisible by `num_heads`.
        depth: Number of blocks.
        num_basis: Radial basis functions.
        num_heads: Attention heads.
        cutoff: Range of the edges, Å.
        forces: "gradient": forces are the negative gradient of the energy; "direct": a separate head predicts them,
            which is cheaper and does not conserve energy.
        product: Product of a feature with an edge's harmonics: "exact" is the Clebsch-Gordan product; "cp", as
            published, uses factors of rank `rank`; "gaunt" is the product of functions on the sphere.
        rank: For "cp": "published" (7 l_max²; off by 2 to 5 %), "exact", or a number among the shipped ones, see
            `blockzoo.layers.equivariant.cp_factors`.
        parity: "o3" gives a molecule and its mirror image the same energy; "so3", as published, keeps the paths that
            distinguish them. By default "o3", but "so3" in the published form: `extensive=False` or `product="cp"`.
        norm: "joint" divides all degrees of a node by one root mean square; "degree" as published divides each by its
            own. By default "joint", but "degree" in the published form. Warning: "degree" makes the energy surface
            nearly singular at symmetric geometries. With `tdn.gfn2`, moving one hydrogen of methane by 1e-6 Å changes
            forces by thousands of eV/Å.
        extensive: Energies are sums over all atoms, with references and scales of elements, and smooth at the cutoff.
            False for the published form, which divides the sum by a constant, drops isolated atoms and jumps at the
            cutoff.
        smooth_cutoff: Whether messages vanish smoothly at the cutoff; by default as `extensive`.
        radial_basis: "gaussian" as published, or "bessel".
        radial_hidden: Width of the radial MLPs.
        avg_degree: Typical number of neighbours, by whose square root the first sum over edges is divided.
        attn_drop_rate: Dropout on the attention weights; 0.2 as published.
        num_elements: Atomic numbers must be less than this.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An option is unknown, options exclude each other, or a size is not positive.
    """

    task: ClassVar[str] = "potential"
    modality: ClassVar[str] = "graph"
    trial_batches: ClassVar[tuple[int, int]] = (4, 7)  # 2 and 3 are the sizes of other axes

    def __init__(
        self,
        l_max: int = 1,
        hidden_channels: int = 128,
        depth: int = 4,
        num_basis: int = 128,
        num_heads: int = 4,
        cutoff: float = 4.5,
        forces: Forces = "gradient",
        product: Product = "exact",
        rank: int | str = "published",
        parity: Parity | None = None,
        norm: Norm | None = None,
        extensive: bool = True,
        smooth_cutoff: bool | None = None,
        radial_basis: Literal["gaussian", "bessel"] = "gaussian",
        radial_hidden: int = 64,
        avg_degree: float = 18.6,
        attn_drop_rate: float = 0.0,
        num_elements: int = NUM_ELEMENTS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        positive(
            l_max=l_max,
            hidden_channels=hidden_channels,
            depth=depth,
            num_basis=num_basis,
            radial_hidden=radial_hidden,
            num_elements=num_elements,
        )
        if not (cutoff > 0 and avg_degree > 0):
            raise ValueError(f"cutoff={cutoff} and avg_degree={avg_degree} must be positive")
        _check_choice("forces", forces, get_args(Forces))
        _check_choice("radial_basis", radial_basis, ("gaussian", "bessel"))
        if norm is not None:
            _check_choice("norm", norm, get_args(Norm))
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_elements(num_elements, device)
        published = product == "cp" or not extensive
        self.parity: Parity = parity or ("so3" if published else "o3")
        self.norm_type: Norm = norm or ("degree" if published else "joint")
        self.l_max = l_max
        self.num_features = self.hidden_channels = hidden_channels
        self.cutoff = cutoff
        self.forces = forces
        self.extensive = extensive
        self.smooth_cutoff = extensive if smooth_cutoff is None else smooth_cutoff
        self.grad_checkpointing = False
        self.input_size = (3,)

        # Atoms: one vector for each element; edges: functions of their length, and of their direction as matrices.
        self.embed = nn.Embedding(num_elements, hidden_channels, **dd)
        nn.init.uniform_(self.embed.weight, -1, 1)
        self.basis = (GaussianBasis if radial_basis == "gaussian" else BesselBasis)(num_basis, cutoff, **dd)
        self.product = edge_product(l_max, product, rank, self.parity, **dd)
        # Features of all degrees from the edges alone; attention and feed-forward networks follow. The last block
        # computes only what the head reads.
        self.degree = EdgeDegree(hidden_channels, num_basis, radial_hidden, avg_degree, **dd)
        sizes_of_block = (hidden_channels, l_max, num_basis, radial_hidden, num_heads, attn_drop_rate, self.norm_type)
        self.blocks = nn.ModuleList(
            TDNBlock(*sizes_of_block, scalars_only=forces == "gradient" and i + 1 == depth, **dd) for i in range(depth)
        )
        self.norm = _NORMS[self.norm_type](hidden_channels, l_max, **dd)
        self.head = nn.Sequential(
            nn.Linear(hidden_channels, hidden_channels, **dd), nn.SiLU(), nn.Linear(hidden_channels, 1, **dd)
        )
        if forces == "direct":  # one more layer, which reads l = 1
            self.force_attn = EdgeAttention(hidden_channels, num_basis, radial_hidden, num_heads, attn_drop_rate, **dd)
            self.force_head = nn.Linear(hidden_channels, 1, bias=False, **dd)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay should leave alone, beyond biases and norms."""
        return {"embed.weight", "degree.scalar"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rates."""
        return {"stem": r"^embed|^basis|^degree", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: compute each block again in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def _edges(self, vectors: torch.Tensor, edge_index: torch.Tensor, num_nodes: int) -> Edges | EdgeParts:
        """Describe edges for the layers, from their vectors (E, 3) from receiver to sender.

        A large graph is split into parts to save memory; in training, `set_grad_checkpointing` saves more.
        """
        sender, receiver = edge_index.unbind(0)
        tracing = torch.compiler.is_compiling() or type(vectors) is not torch.Tensor
        limit = max(1, _PART // ((self.l_max + 1) ** 2 * self.hidden_channels))
        if tracing or self.training or vectors.shape[0] <= limit:
            return self._describe(vectors, sender, receiver, num_nodes)
        return split_edges(self._describe, vectors, sender, receiver, num_nodes, limit)

    def _describe(self, vectors: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor, num_nodes: int) -> Edges:
        distance = vectors.square().sum(-1).clamp_min(1e-20).sqrt()
        matrix = self.product.matrix(spherical_harmonics(vectors, self.l_max))
        envelope = polynomial_envelope(distance, self.cutoff).unsqueeze(1) if self.smooth_cutoff else None
        incoming = make_segments(receiver, num_nodes) if use_kernel("edge_product", matrix) else None
        return Edges(sender, receiver, matrix, self.basis(distance), envelope, num_nodes, incoming)

    def _nodes(self, atomic_numbers: torch.Tensor, edges: Edges | EdgeParts) -> torch.Tensor:
        """Features (N, d, C) after the last norm; (N, 1, C) if only scalars are used."""
        x = self.degree(edges)
        x = x + F.pad(self.embed(atomic_numbers).to(x.dtype).unsqueeze(1), (0, 0, 0, x.shape[1] - 1))
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, edges, use_reentrant=False)
            else:
                x = block(x, edges)
        return self.norm(x)

    def _energy(
        self,
        x: torch.Tensor,
        atomic_numbers: torch.Tensor,
        batch: torch.Tensor,
        receiver: torch.Tensor,
        num_graphs: int,
    ) -> torch.Tensor:
        """Energies (B,) from the scalars of (N, d, C)."""
        return segment_sum(self._shares(x, atomic_numbers, receiver), batch, num_graphs)

    def _shares(self, x: torch.Tensor, atomic_numbers: torch.Tensor, receiver: torch.Tensor) -> torch.Tensor:
        """What each atom adds to the energy, (N,)."""
        parts = self.head(x[:, 0]).squeeze(1)
        if self.extensive:
            # In float64: the sum over a box of water is -50,000 eV, and a step of dynamics changes it by less than meV.
            wide = wide_dtype(parts.device)
            return parts.to(wide) * self.scales[atomic_numbers].to(wide) + self.references[atomic_numbers].to(wide)
        parts = parts.to(self.embed.weight.dtype)
        return torch.where(_has_edge(receiver, len(parts)), parts, 0) / math.sqrt(_PUBLISHED_NODES)

    def _direct_forces(
        self, x: torch.Tensor, atomic_numbers: torch.Tensor, receiver: torch.Tensor, edges: Edges | EdgeParts
    ) -> torch.Tensor:
        forces = self.force_head(self.force_attn(x, edges)[:, 1:4]).squeeze(2).to(self.embed.weight.dtype)
        if self.extensive:
            return forces * self.scales[atomic_numbers].unsqueeze(1).to(forces.dtype)
        return torch.where(_has_edge(receiver, len(forces)).unsqueeze(1), forces, 0)

    def forward_features(
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        batch: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        pbc: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        shifts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features of the atoms after the last norm; see `forward` for the arguments.

        Returns:
            (N, (l_max + 1)², hidden_channels) of a model with direct forces; (N, 1, hidden_channels) of one whose
            forces are gradients, since its last block computes scalars alone.
        """
        vectors, edge_index, _, _ = self._graph(positions, atomic_numbers, batch, cell, pbc, edge_index, shifts, 1)
        return self._nodes(atomic_numbers, self._edges(vectors, edge_index, positions.shape[0]))

    @torch.no_grad()
    def atomic_energies(
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        batch: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        pbc: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        shifts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What each atom adds to the energy of its graph; see `forward` for the arguments.

        Returns:
            (N,), without a gradient. How the energy is divided between atoms is the model's choice, not a fact.
        """
        vectors, edge_index, _, _ = self._graph(positions, atomic_numbers, batch, cell, pbc, edge_index, shifts, 1)
        x = self._nodes(atomic_numbers, self._edges(vectors, edge_index, positions.shape[0]))
        return self._shares(x, atomic_numbers, edge_index[1])

    def _graph(
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        batch: torch.Tensor | None,
        cell: torch.Tensor | None,
        pbc: torch.Tensor | None,
        edge_index: torch.Tensor | None,
        shifts: torch.Tensor | None,
        num_graphs: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Edge vectors, edges, graph of each atom and number of graphs."""
        self.check_atoms(positions, atomic_numbers)
        if edge_index is None:
            edge_index, shifts = neighbor_list(positions, self.cutoff, batch, cell, pbc)
        if batch is None:
            batch, num_graphs = atomic_numbers.new_zeros(atomic_numbers.shape), 1
        elif num_graphs is None:
            num_graphs = cell.shape[0] if cell is not None else int(batch.max()) + 1 if len(batch) else 0
        sender, receiver = edge_index.unbind(0)
        vectors = positions.index_select(0, sender) - positions.index_select(0, receiver)
        if shifts is not None:
            if cell is None:
                raise ValueError("shifts are given without a cell")
            cells = cell.to(vectors.dtype).index_select(0, batch.index_select(0, receiver))
            vectors = vectors + (shifts.to(vectors.dtype).unsqueeze(1) @ cells).squeeze(1)
        return vectors.to(self.embed.weight.dtype), edge_index, batch, num_graphs

    def forward(
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        batch: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        pbc: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        shifts: torch.Tensor | None = None,
        num_graphs: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Energies and forces.

        With forces as gradients, the result can be differentiated again while gradients are enabled. For
        `torch.compile` in one graph and `torch.export`, give the edges, and `cell` or `num_graphs` or no `batch`; with
        forces as gradients, export by `blockzoo.tasks.molecules.export.export_program`.

        Args:
            positions: (N, 3), Å.
            atomic_numbers: (N,), int64.
            batch: Graph of each atom, (N,), from 0; all atoms in one graph by default.
            cell: Cell vectors as rows, (B, 3, 3), Å; zero for graphs that are not periodic.
            pbc: Which directions are periodic, (B, 3); none by default.
            edge_index: Pairs (sender, receiver) within the cutoff, (2, E), see
                `blockzoo.layers.equivariant.neighbors`; found here by default.
            shifts: Image of the sender for each edge, in cell vectors, (E, 3).
            num_graphs: Number of graphs; needed if `cell` does not give it.

        Returns:
            "energy" (B,), in float64 unless `extensive=False`, and "forces" (N, 3) in the model's type; with `cell` and
            either `pbc` or `shifts`, and forces as gradients, also
            "stress" (B, 3, 3), the derivative of the energy by the strain over the volume; zero without a volume.

        Raises:
            ValueError: A shape does not fit, or an element is unknown.
        """
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            # Tensors made in inference mode cannot take part in a gradient.
            given = (positions, atomic_numbers, batch, cell, pbc, edge_index, shifts)
            with torch.inference_mode(False), torch.no_grad():
                return self(*[None if tensor is None else tensor.clone() for tensor in given], num_graphs)
        vectors, edge_index, batch, num_graphs = self._graph(
            positions, atomic_numbers, batch, cell, pbc, edge_index, shifts, num_graphs
        )
        count = positions.shape[0]
        sender, receiver = edge_index.unbind(0)
        if self.forces == "direct":
            edges = self._edges(vectors, edge_index, count)
            x = self._nodes(atomic_numbers, edges)
            energy = self._energy(x, atomic_numbers, batch, receiver, num_graphs)
            return {"energy": energy, "forces": self._direct_forces(x, atomic_numbers, receiver, edges)}

        def total(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            edges = self._edges(vectors, edge_index, count)
            energy = self._energy(self._nodes(atomic_numbers, edges), atomic_numbers, batch, receiver, num_graphs)
            return energy.sum(), energy

        energy, slope = value_and_slope(total, vectors)
        forces = segment_sum(slope, receiver, count) - segment_sum(slope, sender, count)
        out = {"energy": energy, "forces": forces}
        if cell is not None and (pbc is not None or shifts is not None):
            strain = segment_sum(vectors.unsqueeze(2) * slope.unsqueeze(1), batch.index_select(0, receiver), num_graphs)
            volume = torch.linalg.det(cell.to(strain.dtype)).abs().view(-1, 1, 1)
            stress = torch.where(volume > 0, (strain + strain.mT) / 2 / torch.where(volume > 0, volume, 1), 0)
            out["stress"] = stress
        return out

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Random molecules of 5 to 9 atoms, with their edges; see `ZooModel.example_inputs`."""
        sizes = torch.randint(5, 10, (batch_size,), generator=generator)
        batch = torch.arange(batch_size).repeat_interleave(sizes)
        grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3) * 1.3
        chosen = [grid[torch.randperm(27, generator=generator)[:size]] for size in sizes.tolist()]
        places = torch.cat([*chosen, grid[:0]])  # of an empty batch, no places
        positions = places + 0.1 * torch.randn(places.shape, generator=generator)
        common = torch.tensor([1, 6, 7, 8])
        common = common[common < self.num_elements]
        if not self.has_element.is_meta:
            known = self.has_element.cpu()
            common = common[known[common]] if known[common].any() else known.nonzero().squeeze(1)
        numbers = common[torch.randint(len(common), (len(batch),), generator=generator)]
        edge_index, _ = neighbor_list(positions, self.cutoff, batch)
        inputs = {"atomic_numbers": numbers, "batch": batch, "cell": torch.zeros(batch_size, 3, 3)}
        inputs = {"positions": positions, **inputs, "edge_index": edge_index}
        weight = self.embed.weight
        return {
            key: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
        }

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`; sizes are free without steps."""
        raise ValueError(
            f"{type(self).__name__} always has free numbers of atoms, edges and graphs; leave --dynamic-size out"
        )

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """AIRS's layout to ours, see `blockzoo._tdn_layout`."""
        return from_official(state_dict, model)


def _has_edge(receiver: torch.Tensor, num_nodes: int) -> torch.Tensor:
    return segment_sum(torch.ones_like(receiver), receiver, num_nodes) > 0


def _cfg(**kwargs: Any) -> ZooCfg:
    return graph_cfg(
        "potential",
        paper_name="Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations",
        paper_ids="arXiv:2507.01131",
        origin_url="https://github.com/divelab/AIRS",
        **kwargs,
    )


def _gaunt_cfg(**kwargs: Any) -> ZooCfg:
    return graph_cfg(
        "potential",
        paper_name="Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt Tensor Products",
        paper_ids="arXiv:2401.10216",
        origin_url="https://github.com/lsj2408/Gaunt-Tensor-Product",
        **kwargs,
    )


_PRESETS = [f"{family}_l{l_max}" for family in ("tdn", "gaunt", "cgnet") for l_max in (1, 2, 3)]


def _cfgs() -> dict[str, Any]:
    cfgs = {}
    for name in ("tdn", *_PRESETS):
        make = _gaunt_cfg if name.startswith("gaunt") else _cfg
        cfgs[name] = make()
        cfgs.update({f"{name}.{tag}": make(**from_manifest(f"{name}.{tag}")) for tag in tags_of(name)})
    return cfgs


default_cfgs = generate_default_cfgs(_cfgs())

_PAPER = {"hidden_channels": 256, "depth": 6, "num_basis": 256}


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], **kwargs: Any) -> TDN:
    return build_model(TDN, variant, pretrained, **{**defaults, **kwargs})


@register_model
def tdn(pretrained: bool = False, **kwargs: Any) -> TDN:
    """TDN, by default at the sizes of its code's defaults: 128 channels, 4 layers, l_max 1."""
    return _create("tdn", pretrained, {}, **kwargs)


@register_model
def tdn_l1(pretrained: bool = False, **kwargs: Any) -> TDN:
    """TDN at the paper's sizes, l_max 1: 256 channels, 6 layers."""
    return _create("tdn_l1", pretrained, {**_PAPER, "l_max": 1}, **kwargs)


@register_model
def tdn_l2(pretrained: bool = False, **kwargs: Any) -> TDN:
    """TDN at the paper's sizes, l_max 2: 256 channels, 6 layers."""
    return _create("tdn_l2", pretrained, {**_PAPER, "l_max": 2}, **kwargs)


@register_model
def tdn_l3(pretrained: bool = False, **kwargs: Any) -> TDN:
    """TDN at the paper's sizes, l_max 3: 256 channels, 6 layers."""
    return _create("tdn_l3", pretrained, {**_PAPER, "l_max": 3}, **kwargs)


@register_model
def gaunt_l1(pretrained: bool = False, **kwargs: Any) -> TDN:
    """The Gaunt product in the backbone of `tdn_l1`."""
    return _create("gaunt_l1", pretrained, {**_PAPER, "l_max": 1, "product": "gaunt"}, **kwargs)


@register_model
def gaunt_l2(pretrained: bool = False, **kwargs: Any) -> TDN:
    """The Gaunt product in the backbone of `tdn_l2`."""
    return _create("gaunt_l2", pretrained, {**_PAPER, "l_max": 2, "product": "gaunt"}, **kwargs)


@register_model
def gaunt_l3(pretrained: bool = False, **kwargs: Any) -> TDN:
    """The Gaunt product in the backbone of `tdn_l3`."""
    return _create("gaunt_l3", pretrained, {**_PAPER, "l_max": 3, "product": "gaunt"}, **kwargs)


@register_model
def cgnet_l1(pretrained: bool = False, **kwargs: Any) -> TDN:
    """The exact product of all paths in the backbone of `tdn_l1`: the baseline of the other two."""
    return _create("cgnet_l1", pretrained, {**_PAPER, "l_max": 1, "product": "exact"}, **kwargs)


@register_model
def cgnet_l2(pretrained: bool = False, **kwargs: Any) -> TDN:
    """The exact product of all paths in the backbone of `tdn_l2`: the baseline of the other two."""
    return _create("cgnet_l2", pretrained, {**_PAPER, "l_max": 2, "product": "exact"}, **kwargs)


@register_model
def cgnet_l3(pretrained: bool = False, **kwargs: Any) -> TDN:
    """The exact product of all paths in the backbone of `tdn_l3`: the baseline of the other two."""
    return _create("cgnet_l3", pretrained, {**_PAPER, "l_max": 3, "product": "exact"}, **kwargs)
