"""How long a step takes on many GPUs: a model from bytes, links and one GPU's measured step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BUCKET = 25 * 2**20
"""Bytes of DDP's last bucket of gradients, which nothing can hide (torch's default ``bucket_cap_mb``)."""


@dataclass(frozen=True)
class Cluster:
    """Links of a cluster.

    Attributes:
        name: For people.
        gpus_per_node: GPUs of a node.
        inside: GB/s that a GPU sends to the others of its node.
        outside: GB/s that a node sends to other nodes, all its network cards together.
    """

    name: str
    gpus_per_node: int
    inside: float
    outside: float


CLUSTERS = {
    # NVLink 3: 600 GB/s both ways together; 8 cards of 200 Gb/s (NVIDIA DGX A100 data sheet)
    "a100": Cluster("A100, NVLink, 8 x 200 Gb/s a node", 8, 300.0, 200.0),
    # NVLink 4: 900 GB/s both ways together; 8 cards of 400 Gb/s (NVIDIA DGX H200 data sheet)
    "h200": Cluster("H200, NVLink, 8 x 400 Gb/s a node", 8, 450.0, 400.0),
    # the same nodes with one plain network card
    "a100-100g": Cluster("A100, NVLink, 1 x 100 Gb/s a node", 8, 300.0, 12.5),
}


@dataclass(frozen=True)
class Traffic:
    """What a process sends in a step of CMAE.

    Attributes:
        gradients: Bytes of all gradients, float32 (autocast keeps parameters and gradients in it).
        keys: Bytes of one process's target projections, float32, gathered by all.
        layers: Layers of batch norm that synchronise their statistics, forwards and backwards.
    """

    gradients: int
    keys: int
    layers: int


@dataclass(frozen=True)
class Assumptions:
    """What the model takes for granted.

    Attributes:
        efficiency: Share of a link's nominal speed that a collective reaches.
        latency: Seconds of a collective of a few kilobytes.
        backward: Share of a step that is the backward pass, in which gradients travel.
        hidden: Share of that pass that can hide them: they are sent as they become ready.
    """

    efficiency: float = 0.7
    latency: float = 50e-6
    backward: float = 0.6
    hidden: float = 0.8


@dataclass(frozen=True)
class Prediction:
    """A step on many GPUs, in seconds.

    Attributes:
        gradients: The sum of gradients, hidden or not.
        exposed: What all communication adds to a step.
        step: A step; None without a measured one.
        efficiency: Images/s a GPU, relative to one GPU alone; None without a measured step.
    """

    gradients: float
    exposed: float
    step: float | None
    efficiency: float | None


def traffic_of(model: nn.Module, batch: int, width: int) -> Traffic:
    """Count what a model sends.

    Args:
        model: CMAE in training.
        batch: Images of a process.
        width: Values of a projection.
    """
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4
    layers = sum(isinstance(m, _BatchNorm) for m in model.modules())
    return Traffic(gradients, batch * width * 4, layers)


def predict(
    traffic: Traffic, cluster: Cluster, gpus: int, step: float | None, assumed: Assumptions
) -> Prediction:
    """Predict a step.

    A ring over W processes moves 2 (W - 1) / W times the gradients through its slowest place, and W - 1 times the
    keys of a process. That place is the link of a GPU to its neighbours, or what all cards of a node send together,
    since as many rings as there are cards share them.

    Args:
        traffic: Of one process.
        cluster: Where.
        gpus: W.
        step: Seconds of a step on one GPU alone; None if it was not measured.
        assumed: What is taken for granted.
    """
    if gpus == 1:
        return Prediction(0.0, 0.0, step, None if step is None else 1.0)
    several = gpus > cluster.gpus_per_node
    speed = assumed.efficiency * 1e9 * (min(cluster.inside, cluster.outside) if several else cluster.inside)
    ring = 2 * (gpus - 1) / gpus
    gradients = ring * traffic.gradients / speed
    keys = (gpus - 1) * traffic.keys / speed + assumed.latency
    statistics = 2 * traffic.layers * assumed.latency
    last = ring * min(BUCKET, traffic.gradients) / speed
    cover = 0.0 if step is None else assumed.hidden * assumed.backward * step
    exposed = max(gradients - cover, last) + keys + statistics
    if step is None:
        return Prediction(gradients, exposed, None, None)
    return Prediction(gradients, exposed, step + exposed, step / (step + exposed))
