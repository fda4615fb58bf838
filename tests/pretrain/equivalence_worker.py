"""One process of several that train one step: ``equivalence_worker.py FOLDER`` with RANK, WORLD_SIZE and the like set.

Reads FOLDER/batch.pt, trains on its part of the batch, in as many small batches as it says; rank 0 writes losses,
gradients and statistics of batch norm to FOLDER/<name>.pt.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

torch.set_num_threads(1)
import cmae_mm.compat  # noqa: E402, F401  (before torchvision)

# isort: split
import os  # noqa: E402

from mmengine.model import MMDistributedDataParallel  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from torch import nn  # noqa: E402

from cmae_mm.engine.cpu import fit_to_cpu  # noqa: E402
from cmae_mm.engine.sharding import split_model  # noqa: E402
from cmae_mm.engine.sharding import whole as full_tensors  # noqa: E402
from cmae_mm.pretrain import CMAE, Mask  # noqa: E402
from cmae_mm.pretrain.gradient_cache import cached_train_step  # noqa: E402


class Plain(nn.Module):
    """A preprocessor that changes nothing."""

    def forward(self, data, training=False):
        return data


def tiny_cmae(uneven, cached):
    """CMAE with SyncBN and a handful of channels."""
    decoder = dict(num_patches=16, patch_size=4, embed_dim=16, decoder_embed_dim=8, decoder_num_heads=2)
    mlp = dict(type="NonLinearNeck", hid_channels=16, out_channels=8, with_last_bn=False, with_avg_pool=False)
    mlp["norm_cfg"] = dict(type="SyncBN", eps=1e-6)
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    head = dict(type="CMAEPretrainHead", predictor=dict(in_channels=8, **mlp), patch_size=4)
    return CMAE(
        backbone=dict(type="CMAEViT", arch=arch, img_size=16, patch_size=4),
        pixel_decoder=dict(type="CMAEPixelDecoder", decoder_depth=1, **decoder),
        feature_decoder=dict(type="CMAEFeatureDecoder", decoder_depth=1, **decoder),
        projector=dict(in_channels=16, **mlp),
        head=dict(head, uneven_batches=uneven),
        grad_cache=cached,
    )


def main():
    folder, rank, world = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    data = torch.load(folder / "batch.pt", weights_only=True)
    sizes, steps = data["sizes"] or [len(data["online"]) // world] * world, data["steps"]
    torch.manual_seed(0)
    model = tiny_cmae(uneven=data["sizes"] is not None, cached=steps > 1)
    model.init_weights()
    model = fit_to_cpu(model).double().train()
    model.data_preprocessor = Plain()
    own = {k: data[k].split(sizes)[rank] for k in ("online", "target", "ids", "mask", "restore")}
    rows = [part.tolist() for part in torch.arange(sizes[rank]).chunk(steps)]
    batches = [dict(inputs=[own["online"][r], own["target"][r]]) for r in rows]
    masks = [Mask(own["ids"][r], own["restore"][r], own["mask"][r]) for r in rows] * 2
    model.draw_masks = lambda images, given=None: masks.pop(0)
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.0, foreach=True), accumulative_counts=steps
    )
    wrapper.initialize_count_status(model, 0, steps)
    wrapper.zero_grad = lambda **kwargs: None  # keep the gradients
    if data["split"]:
        model.init_weights = lambda: None  # it is initialised
        whole = split_model(model, torch.device("cpu"), recompute=data["split"] == "recompute")
    else:
        whole = MMDistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    logs = (
        cached_train_step(whole, batches, wrapper) if steps > 1 else [whole.train_step(batches[0], wrapper)]
    )
    losses = torch.stack(
        [torch.stack([log[k].detach() for k in ("loss_rec", "loss_con")]) for log in logs]
    ).mean(0)
    if world > 1:
        dist.all_reduce(losses)
    grads = full_tensors({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    if rank == 0:
        statistics = {n: b for n, b in model.named_buffers() if "running" in n}
        torch.save(
            dict(losses=losses / world, grads=grads, statistics=statistics), folder / f"{data['name']}.pt"
        )
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


main()
