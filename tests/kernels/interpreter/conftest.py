"""Where the checks draw their tensors: on a CPU for the interpreter, or on BLOCKZOO_CHECK_DEVICE."""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def _device():
    with torch.device(os.environ.get("BLOCKZOO_CHECK_DEVICE", "cpu")):
        yield
