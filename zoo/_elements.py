"""Tables of elements for models of atoms: accepted elements, energies of single atoms, and units."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from blockzoo._model import ZooModel

__all__ = ["ElementModel", "wide_dtype"]


class ElementModel(ZooModel):
    """Base class of models of atoms, with tables by atomic number: references, scales, and accepted elements.

    The tables are in float64 for every type of the model, if the device has float64.

    Attributes:
        references: Energy of a single atom, (num_elements,).
        scales: Unit of what the network adds, (num_elements,).
        has_element: Whether the model accepts an element, (num_elements,).
        num_elements: Atomic numbers must be less than this.
        extensive: Whether outputs are sums over atoms, which references and scales belong to.
    """

    references: torch.Tensor
    scales: torch.Tensor
    has_element: torch.Tensor
    num_elements: int
    extensive: bool

    def register_elements(self, num_elements: int, device: torch.device | str | None) -> None:
        """Add the tables: no references, scales of 1, all elements accepted."""
        self.num_elements = num_elements
        exact: dict[str, Any] = {"device": device, "dtype": wide_dtype(device)}
        self.register_buffer("references", torch.zeros(num_elements, **exact))
        self.register_buffer("scales", torch.ones(num_elements, **exact))
        self.register_buffer("has_element", torch.ones(num_elements, dtype=torch.bool, device=device))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Move and cast everything, but keep references and scales in float64."""
        exact = {name: getattr(self, name) for name in ("references", "scales")}
        if wide_dtype(fn(self.has_element).device) == torch.float32:  # a device without float64 refuses to take them
            for name, value in exact.items():
                setattr(self, name, value.float())
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = getattr(self, name)
            if moved.dtype != (wide := wide_dtype(moved.device)):
                setattr(self, name, value.to(moved.device, wide))
        return self

    @torch.no_grad()
    def set_references(
        self,
        energies: Mapping[int, float] | torch.Tensor | None = None,
        scale: Mapping[int, float] | torch.Tensor | float | None = None,
    ) -> None:
        """Set the energy of single atoms, and the unit of what the network adds.

        The energy of a graph is the sum over atoms of references[Z] + scales[Z] * output; direct forces are multiplied
        by the scale as well.

        Args:
            energies: Reference energy by atomic number, or a tensor indexed by it. A mapping also says which elements
                the model knows: others are refused from then on.
            scale: Scale by atomic number, a tensor indexed by it, or one number for all elements.

        Raises:
            ValueError: An atomic number is out of range, or the model is not extensive.
        """
        if not self.extensive:
            raise ValueError("extensive=False has no references or scales; create the model with extensive=True")
        for name, values in (("references", energies), ("scales", scale)):
            buffer = getattr(self, name)
            if isinstance(values, Mapping):
                numbers = torch.tensor([int(number) for number in values], dtype=torch.int64)
                if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.num_elements:
                    raise ValueError(
                        f"{name} has atomic numbers outside 0 .. {self.num_elements - 1}: {sorted(values)}"
                    )
                given = torch.tensor(list(values.values()), dtype=wide_dtype(buffer.device))
                buffer[numbers.to(buffer.device)] = given.to(buffer.device)
                if name == "references":
                    self.has_element.zero_()
                    self.has_element[numbers.to(buffer.device)] = True
            elif values is not None:
                given = torch.as_tensor(values).to(buffer)
                if given.ndim == 1 and len(given) > self.num_elements or given.ndim > 1:
                    raise ValueError(f"{name} has shape {tuple(given.shape)}, expected up to ({self.num_elements},)")
                buffer[: len(given) if given.ndim else None] = given

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that the model accepts."""
        return self.has_element.nonzero().squeeze(1).tolist()

    def check_atoms(self, positions: torch.Tensor, atomic_numbers: torch.Tensor) -> None:
        """Refuse atoms of unknown elements, and tensors whose shapes are not (N, 3) and (N,).

        Raises:
            ValueError: A shape does not fit, or an element is unknown.
        """
        if positions.ndim != 2 or positions.shape[1] != 3 or atomic_numbers.shape != positions.shape[:1]:
            raise ValueError(
                f"positions {tuple(positions.shape)} and atomic_numbers {tuple(atomic_numbers.shape)} must be (N, 3) "
                "and (N,)"
            )
        if torch.compiler.is_compiling() or type(atomic_numbers) is not torch.Tensor or not len(atomic_numbers):
            return  # what tracing puts in place of tensors has no values
        if atomic_numbers.is_cuda and torch.cuda.is_current_stream_capturing():
            return  # a graph of kernels may not wait for values
        inside = (atomic_numbers >= 0) & (atomic_numbers < self.num_elements)
        if bool((inside & self.has_element[atomic_numbers.clamp(0, self.num_elements - 1)]).all()):
            return  # the only time that a GPU is waited for
        low, high = int(atomic_numbers.min()), int(atomic_numbers.max())
        if low < 0 or high >= self.num_elements:
            raise ValueError(f"atomic_numbers from {low} to {high} must be in 0 .. {self.num_elements - 1}")
        unknown = atomic_numbers[~self.has_element[atomic_numbers]].unique().tolist()
        if unknown:
            raise ValueError(f"atomic_numbers has {unknown}, elements that this model does not know: {self.elements}")


def wide_dtype(device: torch.device | str | None) -> torch.dtype:
    """The type for sums of atomic energies: float64 if the device has it."""
    device = torch.get_default_device() if device is None else torch.device(device)
    return torch.float32 if device.type == "mps" else torch.float64
