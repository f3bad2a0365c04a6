"""One process of `test_multigrid.py`'s distributed test: python patches_worker.py RANK WORLD STORE OUT."""

import os
import sys

import torch
import torch.distributed as dist

import blockzoo

ARGUMENTS = {"n_modes": (4, 4), "hidden_channels": 8, "depth": 2, "levels": 1, "padding_fraction": 0.125}


def make(group=None, step=None):
    torch.manual_seed(0)
    return blockzoo.create_model("mg_tfno2d", **ARGUMENTS, group=group, patches_per_step=step).double()


def loss_and_input_gradient(model):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(3, 1, 16, 16, generator=generator, dtype=torch.double) for _ in range(2))
    x.requires_grad_()
    loss = (model(x) - y).square().mean()
    loss.backward()
    return loss.detach(), x.grad


def main(rank, world, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    model = make("world")
    loss, of_x = loss_and_input_gradient(model)
    grads = [parameter.grad for parameter in model.parameters()]
    for grad in grads:
        dist.all_reduce(grad)
        grad /= world
    wrapped = torch.nn.parallel.DistributedDataParallel(make("world"))
    loss_and_input_gradient(wrapped)
    averaged = [parameter.grad for parameter in wrapped.module.parameters()]
    if rank == world - 1:
        torch.save([loss, of_x, *grads, *averaged], out)
    dist.barrier()
    dist.destroy_process_group()
    # The answer is on disk. Leave without the interpreter's teardown: gloo's threads of a group that DDP still refers
    # to abort it at times ("terminate called without an active exception"), which says nothing about the patches.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
