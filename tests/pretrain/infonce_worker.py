"""One process of the two in test_cmae_head: ``infonce_worker.py FOLDER`` with RANK and the like set."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import cmae_mm.pretrain  # noqa: F401
from cmae_mm.pretrain import CMAEPretrainHead

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.set_num_threads(1)
dist.init_process_group("gloo")
data = torch.load(folder / "data.pt", weights_only=True)
mlp = dict(type="NonLinearNeck", in_channels=8, hid_channels=8, out_channels=8, norm_cfg=dict(type="BN1d"))
head = CMAEPretrainHead(predictor=mlp, contrastive_scale="1")
head.predictor = torch.nn.Identity()  # takes and gives a 1-tuple, as the MLP does
query = data["queries"].chunk(2)[rank].clone().requires_grad_()
loss = head.contrastive_loss(query, data["keys"].chunk(2)[rank])
loss.backward()
torch.save({"loss": loss.detach(), "grad": query.grad}, folder / f"{rank}.pt")
dist.destroy_process_group()
