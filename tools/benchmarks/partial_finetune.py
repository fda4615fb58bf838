"""Time and activations of a training step with only the last blocks trainable, against full fine-tuning.

    python tools/benchmarks/partial_finetune.py [--arch deit-small] [--size 224] [--batch 4] [--rounds 5]

Rounds alternate; processor time on a CPU, so that other work on the machine disturbs little. Activations are what
autograd keeps for the backward pass, without parameters.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

import torch
from torch import Tensor, nn

from cmae_mm.engine.cpu import fit_to_cpu, keep_memory
from cmae_mm.transfer.imagenet import ImageNetViT


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps after a forward pass, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(images)[0].square().mean()
    loss.backward()
    return sum(found.values())


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, clock: Callable[[], float]
) -> float:
    """Seconds of a training step."""
    start = clock()
    optimizer.zero_grad()
    model(images)[0].square().mean().backward()
    optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Time all numbers of blocks in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default="deit-small")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock: Callable[[], float] = time.perf_counter if device == "cuda" else time.process_time
    torch.manual_seed(0)
    keep_memory()
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    counts: list[float | None] = [None, 12, 8, 6, 4, 2, 1, 0.5, 0]
    models = {}
    for count in counts:
        model: nn.Module = ImageNetViT(
            arch=args.arch,
            img_size=args.size,
            out_type="avg_featmap",
            final_norm=False,
            trainable_blocks=count,
        )
        model = (fit_to_cpu(model) if device == "cpu" else model).to(device).train()
        models[count] = model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    kept = {count: kept_bytes(model, images) for count, (model, _) in models.items()}
    times: dict[float | None, list[float]] = {count: [] for count in counts}
    for i in range(args.rounds + 1):
        for count, (model, optimizer) in models.items():
            seconds = step(model, optimizer, images, clock)
            if i:
                times[count].append(seconds)
    threads = torch.get_num_threads()
    print(
        f"{device}, {threads} threads, {args.arch}, {args.size} px, batch {args.batch}, {args.rounds} rounds"
    )
    full = statistics.median(times[None])
    for count in counts:
        middle = statistics.median(times[count])
        name = "full" if count is None else f"{count:g} blocks"
        print(
            f"  {name:10s} {1000 * middle:8.0f} ms   {middle / full:5.2f} of full   "
            f"{kept[count] / 1e6:8.1f} MB kept   {kept[count] / kept[None]:5.3f} of full"
        )


if __name__ == "__main__":
    main()
