"""Linear layers by oneDNN are linear layers; memory is kept where it can be."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.wrappers import Linear as MMCVLinear
from mmengine.config import Config
from torch import nn

from cmae_mm.engine import cpu

ROOT = Path(__file__).parents[2]
needs_op = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch is built without oneDNN"
)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = nn.Linear(24, 40)
    cpu.use_onednn(layer)
    assert type(layer) is cpu.OneDNNLinear
    return layer


def oracle(layer, x, grad):
    """Output and gradients in float64."""
    leaves = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias) if t is not None]
    out = F.linear(*leaves)
    out.backward(grad.double())
    return [t.float() for t in (out.detach(), *(leaf.grad for leaf in leaves))]


@needs_op
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 5, 24), (2, 3, 4, 24), (1, 1, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_linear_layer_in_float64(layer, shape, bias):
    if not bias:
        layer.bias = None
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 40)
    out = layer(x)
    assert type(out.grad_fn).__name__ == "_LinearBackward"  # else the oracle would meet F.linear
    out.backward(grad)
    found = [out.detach(), x.grad, layer.weight.grad] + ([layer.bias.grad] if bias else [])
    torch.testing.assert_close(found, oracle(layer, x, grad), rtol=1e-5, atol=1e-5)
    assert layer.weight.grad.is_contiguous()


@needs_op
def test_takes_strided_input_and_gradients(layer):
    x = torch.randn(24, 3, 5).permute(2, 1, 0).requires_grad_()
    grad = torch.randn(40, 3, 5).permute(2, 1, 0)
    layer(x).backward(grad)
    _, x_grad, weight_grad, bias_grad = oracle(layer, x, grad)
    torch.testing.assert_close(
        [x.grad, layer.weight.grad, layer.bias.grad], [x_grad, weight_grad, bias_grad], rtol=1e-5, atol=1e-5
    )


@needs_op
def test_gives_gradients_to_what_needs_them(layer):
    x = torch.randn(3, 24)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.weight.grad is not None
    frozen = layer.requires_grad_(False)
    x.requires_grad_()
    frozen(x).sum().backward()
    torch.testing.assert_close(x.grad, frozen.weight.sum(0).expand(3, -1))
    with torch.no_grad():
        assert not frozen(x).requires_grad


@needs_op
@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.randn(24), torch.float32),  # one vector
        (torch.randn(0, 24), torch.float32),  # no box in any image of a batch
        (torch.randn(3, 24).double(), torch.float64),
    ],
)
def test_leaves_the_rest_to_torch(layer, x, dtype):
    out = layer.to(dtype)(x)
    assert torch.equal(out, F.linear(x, layer.weight, layer.bias))


@needs_op
def test_leaves_mixed_precision_to_torch(layer):
    x = torch.randn(3, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        assert torch.equal(out, F.linear(x, layer.weight, layer.bias))
    assert out.dtype == torch.bfloat16


@needs_op
def test_compiles(layer):
    torch._dynamo.reset()
    x = torch.randn(3, 24)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_changes_plain_layers_only_and_no_key():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(MMCVLinear(3, 3), nn.ReLU()), Other(3, 1))
    keys = list(model.state_dict())
    assert cpu.use_onednn(model) == 2
    assert [type(m) for m in (model[0], model[1][0], model[2])] == [cpu.OneDNNLinear] * 2 + [Other]
    assert list(model.state_dict()) == keys
    assert cpu.use_onednn(model) == 0


@pytest.mark.parametrize("fast", [True, False])
def test_a_model_is_fitted_to_the_cpu(monkeypatch, fast):
    monkeypatch.setattr(cpu, "prefers_onednn", lambda: fast)
    model = cpu.fit_to_cpu(nn.Sequential(nn.Linear(2, 3), nn.SyncBatchNorm(3)))
    assert type(model[0]) is (cpu.OneDNNLinear if fast else nn.Linear)
    assert not isinstance(model[1], nn.SyncBatchNorm)
    assert model(torch.randn(4, 2)).shape == (4, 3)


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [("AuthenticAMD", "AVX512", True), ("GenuineIntel", "AVX512", False), ("AuthenticAMD", "AVX2", False)],
)
def test_the_choice_follows_from_the_machine(monkeypatch, tmp_path, vendor, capability, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(cpu, "CPU_INFO", info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    has_op = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert cpu.prefers_onednn.__wrapped__() is (expected and has_op)


@needs_op
def test_a_training_step_is_the_same():
    """Loss and every gradient of MAE with and without; a batch norm over few images would amplify rounding."""
    from mmpretrain.registry import MODELS

    import cmae_mm.pretrain  # noqa: F401

    config = Config.fromfile(ROOT / "configs/mini/mae_vit-mini-p8_pretrain.py").model
    found = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = MODELS.build(config)
        model.init_weights()
        if fast:
            assert cpu.use_onednn(model) > 20
        master = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
        loss = model.train()(**model.data_preprocessor({"inputs": master}, True), mode="loss")["loss_rec"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


FAULTS = """
import resource, sys
import torch
from cmae_mm.engine.cpu import keep_memory

def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(3 * 2**22) for _ in range(2)]  # 2 x 48 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert keep_memory()
print([touch() for _ in range(6)][-1])  # where the heap starts and ends settles in the first rounds
"""


@pytest.mark.skipif(cpu.platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_kept_memory_is_not_paid_for_again():
    faults = {}
    for word in ("keep", "give"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True, cwd=ROOT
        )
        faults[word] = int(done.stdout)
    # 24,576 pages of 4 kB; where the system gives huge pages, fewer
    assert faults["keep"] < faults["give"] / 10
