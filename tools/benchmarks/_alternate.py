"""Time two backbones in turns."""

import statistics
import time

import torch
from torch import nn


def _step(model: nn.Module, images: torch.Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    sum(m.float().square().mean() for m in model(images)).backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def compare(models: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> None:
    """Print images a second (median of the rounds) of each model and the ratio of the first to the second.

    Args:
        models: Two named backbones.
        images: (B, 3, H, W); on a GPU the step runs in bfloat16 autocast.
        rounds: Timed steps of each, taken in turns after one untimed step each.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=images.is_cuda):
        for i in range(rounds + 1):
            for name, model in models.items():
                seconds = _step(model, images)
                if i:
                    times[name].append(seconds)
    where = torch.cuda.get_device_name() if images.is_cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; batch {len(images)}, {images.shape[-1]} px, {rounds} rounds")
    speed = {name: len(images) / statistics.median(t) for name, t in times.items()}
    for name, value in speed.items():
        print(f"  {name:24s} {value:8.2f} images/s")
    first, second = speed
    print(f"  ratio {speed[first] / speed[second]:.2f}")
