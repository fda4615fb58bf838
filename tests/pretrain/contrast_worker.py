"""One process of the two in test_contrast: ``contrast_worker.py FOLDER`` with RANK and the like set."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import cmae_mm.pretrain  # noqa: F401
from cmae_mm.pretrain.contrast import gather, info_nce, nt_xent

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.set_num_threads(1)
dist.init_process_group("gloo")
data = torch.load(folder / "data.pt", weights_only=True)
query, key = (data[name].chunk(2)[rank].clone().requires_grad_() for name in ("queries", "keys"))

one = info_nce(query, gather(key.detach()), 0.07, offset=rank * len(query)).loss
(one_grad,) = torch.autograd.grad(one, query)
two = nt_xent(query, key, 0.1).loss
two_grads = torch.autograd.grad(two, (query, key))
torch.save(
    {"info_nce": (one.detach(), one_grad), "nt_xent": (two.detach(), *two_grads)}, folder / f"{rank}.pt"
)
dist.destroy_process_group()
