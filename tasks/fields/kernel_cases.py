"""The kernel of Fourier neural operators, as `blockzoo bench kernels` measures them: sizes, floors and peers."""

import importlib.util

import torch

from blockzoo.kernels.spectral_mix import spectral_mix, spectral_mix_ref
from blockzoo.tasks.core.kernel_case import Case, Cases, Peer, draw

__all__ = ["CASES"]


def _spectral_mix(batch: int, rows: int, columns: int, chans: int, device: str) -> Case:
    modes = rows * columns
    x, weight = draw(batch, 2, modes, chans, device=device), draw(modes, chans, chans, 2, device=device) / chans**0.5
    peers = {}
    if importlib.util.find_spec("neuralop") is not None:
        from neuralop.layers.spectral_convolution import _contract_dense

        spectrum = torch.complex(*x.unbind(1)).movedim(2, 1)  # (B, C, M)
        matrices = torch.view_as_complex(weight).permute(1, 2, 0)
        inputs = [tensor.unflatten(2, (rows, columns)).contiguous() for tensor in (spectrum, matrices)]

        def to_ours(out: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(out.flatten(2)).permute(0, 3, 2, 1)

        peers["neuraloperator"] = Peer(_contract_dense, inputs, to_ours)
    blocks = {"BLOCK_R": [16, 32], "BLOCK_S": [16, 32, 64], "BLOCK_T": [16, 32, 64], "num_warps": [2, 4, 8]}
    moved, flops = 8.0 * modes * chans * (2 * batch + chans), 8.0 * modes * batch * chans**2
    text = f"batch {batch}, {rows} x {columns} modes, {chans} channels"
    launches = {"spectral_mix": blocks}
    return Case("spectral_mix", launches, text, [x, weight], spectral_mix, spectral_mix_ref, flops, moved, peers)


CASES = {
    "spectral_mix": Cases(_spectral_mix, [(32, 32, 17, 64), (16, 64, 33, 32), (4, 64, 33, 128)], (2, 8, 5, 8)),
}
"""By kernel."""
