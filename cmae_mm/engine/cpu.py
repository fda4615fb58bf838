"""What makes a run faster on a CPU: linear layers by oneDNN, and memory that is kept between steps."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.wrappers import Linear as MMCVLinear
from mmengine.dist import get_world_size
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cmae_mm.engine.sync_batch_norm import sync_on_cpu

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of mallopt's parameters in glibc's malloc.h
CPU_INFO = Path("/proc/cpuinfo")


def fit_to_cpu(model: nn.Module) -> nn.Module:
    """Make a model ready for a CPU: no layers of SyncBN, which need a GPU, and the faster linear layers.

    Where several processes train, SyncBN keeps its meaning: statistics are those of all of them.

    Args:
        model: Changed in place.

    Returns:
        The model.
    """
    model = sync_on_cpu(model) if get_world_size() > 1 else revert_sync_batchnorm(model)
    if prefers_onednn():
        use_onednn(model)
    return model


def keep_memory() -> bool:
    """Let the C library keep what is freed for the next step. For the whole process, and for good.

    A step frees all its activations, gigabytes. glibc returns them to the system, and the next step pays a page
    fault for each 4 kB again. The process stays as large as it once was; its peak is the same.

    Returns:
        Whether this C library has such a setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(TRIM_THRESHOLD, -1) and mallopt(MMAP_MAX, 0))


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN multiplies float32 matrices faster here than the library behind ``F.linear``.

    It does where torch is built on MKL and the CPU has AVX-512 but is not Intel's: MKL then uses narrower
    instructions. Decided by these facts, not by a measurement, so that a run that resumes computes the same.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    has_op = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_op and wide and CPU_INFO.exists() and "GenuineIntel" not in CPU_INFO.read_text()


def use_onednn(model: nn.Module) -> int:
    """Let the linear layers of a model compute with oneDNN; parameters and state-dict keys stay.

    Args:
        model: Changed in place. Subclasses of ``nn.Linear`` that are not known here stay as they are.

    Returns:
        Number of layers.
    """
    layers = [module for module in model.modules() if type(module) in (nn.Linear, MMCVLinear)]
    for layer in layers:
        layer.__class__ = OneDNNLinear
    return len(layers)


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` by oneDNN, forwards and backwards, for float32 on a CPU; everything else as usual.

    Results differ from ``nn.Linear`` by the order of summation alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (..., in_features)."""
        plain = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        if (
            not plain
            or x.dim() < 2
            or x.numel() == 0
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()  # the compiler has its own choice of kernels
        ):
            return F.linear(x, self.weight, self.bias)
        return _Linear.apply(x, self.weight, self.bias)


def times_transposed(x: Tensor, y: Tensor) -> Tensor:
    """Multiply ``x @ y.T`` on a CPU, by oneDNN where that is faster. Without a gradient.

    Args:
        x: (M, K).
        y: (N, K).

    Returns:
        (M, N), a new tensor.
    """
    if prefers_onednn() and x.dtype == y.dtype == torch.float32:
        return _multiply(x.contiguous(), y.contiguous())  # of strided ones oneDNN has no fast product
    return x @ y.T


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            _multiply(grad, weight.t()) if need_x else None,
            _multiply(rows.t(), x.reshape(-1, x.shape[-1]).t()) if need_weight else None,
            rows.sum(0) if need_bias else None,
        )
