"""The zoo's potentials as calculators of ASE, for relaxation, molecular dynamics and other tools of ASE.

atoms.calc = ZooCalculator("tdn.gfn2")
"""

import copy
from typing import Any

import torch

import blockzoo

try:
    from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError("ZooCalculator needs ase: pip install 'blockzoo[molecules]'") from error

__all__ = ["ZooCalculator"]


class ZooCalculator(Calculator):  # type: ignore[misc]
    """Energy in eV, forces in eV/Å and, for periodic structures, stress in eV/Å³ by a model of the zoo.

    Also "free_energy", which is the energy, and "energies", what each atom adds to it. The stress is there for models
    whose forces are gradients. Only changes of positions, elements, cell and periodicity make it compute again; charges
    and magnetic moments mean nothing to the models. It can be copied and pickled.

    Args:
        model: Name of a model with weights, such as "tdn.gfn2", or a model with the task "potential". A given model is
            copied and stays as it is: its type, device and mode do not change.
        device: Device that it runs on.
        dtype: Type that it runs in; by default, that of its weights. float64 conserves energy best. Positions and sums
            of energies are in float64 in any case, so that small moves of large systems count.
        **kwargs: Of ASE's `Calculator`.

    Raises:
        ValueError: The model is for another task.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # ASE's own name and kind
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        named = isinstance(model, str)
        net = blockzoo.create_model(model, pretrained=True) if named else model
        if getattr(net, "task", None) != "potential":
            what = model if named else type(model).__name__
            raise ValueError(f"model={what!r} is for the task {getattr(net, 'task', None)!r}, not 'potential'")
        self.model = (net if named else copy.deepcopy(net)).to(device=device, dtype=dtype).eval()
        self.dtype = next(self.model.parameters()).dtype
        self.device = torch.device(device)
        # What ASE writes into its files about a calculator.
        described = model if named else net.pretrained_cfg.get("architecture", type(net).__name__)
        self.parameters.update(model=str(described), dtype=str(self.dtype).removeprefix("torch."))
        if self.model.forces != "gradient":
            self.implemented_properties = [name for name in self.implemented_properties if name != "stress"]

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """See ASE's `Calculator.calculate`.

        Raises:
            PropertyNotImplementedError: The stress of a structure that is not periodic is requested.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        periodic = bool(self.atoms.pbc.any())
        if "stress" in properties and not periodic:
            raise PropertyNotImplementedError("stress needs a periodic structure, this one has pbc=False")
        numbers = torch.as_tensor(self.atoms.numbers, dtype=torch.long, device=self.device)
        inputs = {
            "positions": self._tensor(self.atoms.positions),
            "atomic_numbers": numbers,
            "batch": torch.zeros_like(numbers),
        }
        if periodic:
            inputs["cell"] = self._tensor(self.atoms.cell.array)[None]
            inputs["pbc"] = torch.as_tensor(self.atoms.pbc, device=self.device)[None]
        with torch.no_grad():  # nobody differentiates forces: the graph for it would take as much memory again
            outputs = self.model(**inputs)
            if "energies" in properties:
                outputs["energies"] = self.model.atomic_energies(**inputs)
        found = {key: value.cpu().double().numpy() for key, value in outputs.items()}
        energy = float(found["energy"][0])
        self.results = {"energy": energy, "free_energy": energy, "forces": found["forces"]}
        if "energies" in found:
            self.results["energies"] = found["energies"]
        if periodic and "stress" in found and abs(self.atoms.cell.volume) > 0:
            self.results["stress"] = full_3x3_to_voigt_6_stress(found["stress"][0])

    def _tensor(self, array: Any) -> torch.Tensor:
        dtype = self.dtype if self.device.type == "mps" else torch.float64  # that device has no float64
        return torch.tensor(array, dtype=dtype, device=self.device)
