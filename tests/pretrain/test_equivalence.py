"""One step of CMAE: the same losses, gradients and statistics, however many processes and small batches share it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ports import free_port

from cmae_mm.engine.sharding import repeated_blocks
from cmae_mm.pretrain import block_mask

pytestmark = pytest.mark.faults
IMAGES = 32


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """Run one step in processes of its own and give what rank 0 wrote."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("step")
    mask = block_mask(IMAGES, (4, 4), 0.5, 2, torch.Generator().manual_seed(0))
    views = torch.randn(2, IMAGES, 3, 16, 16, dtype=torch.float64)
    batch = dict(
        online=views[0], target=views[1], ids=mask.ids_keep, restore=mask.ids_restore, mask=mask.mask
    )

    def run(world, steps=1, sizes=None, split=None):
        name = f"{world}-{steps}-{sizes is not None}-{split}"
        torch.save(dict(batch, steps=steps, sizes=sizes, split=split, name=name), folder / "batch.pt")
        shared = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "WORLD_SIZE": str(world),
        }
        shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        worker = [sys.executable, str(Path(__file__).with_name("equivalence_worker.py")), str(folder)]
        workers = [subprocess.Popen(worker, env={**shared, "RANK": str(rank)}) for rank in range(world)]
        assert [process.wait(timeout=600) for process in workers] == [0] * world
        return torch.load(folder / f"{name}.pt", weights_only=True)

    return run


@pytest.fixture(scope="module")
def whole(step):
    """One process with the whole batch."""
    found = step(1)
    assert {n.split(".")[0] for n in found["grads"]} >= {"backbone", "pixel_decoder", "projector", "head"}
    assert found["statistics"]["projector.bn0.running_var"].std() > 0
    return found


def test_every_block_of_cmae_is_a_unit(tiny_cmae):
    model = tiny_cmae()
    names = {id(m): n for n, m in model.named_modules()}
    found = [names[id(block)] for block in repeated_blocks(model)]
    assert found == [
        *(f"{part}.layers.{i}" for part in ("backbone", "target_backbone") for i in range(2)),
        *(f"pixel_decoder.decoder_blocks.{i}" for i in range(2)),
        "feature_decoder.decoder_blocks.0",
    ]


def equal(found, whole):
    # losses are computed in float32, everything else in float64
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)


def test_two_processes_and_four_small_batches_contrasted_as_one(step, whole):
    equal(step(2, steps=4), whole)


def test_processes_with_different_numbers_of_images(step, whole):
    equal(step(2, sizes=[IMAGES - 5, 5]), whole)


def test_two_processes_that_split_the_model(step, whole):
    equal(step(2, split="recompute"), whole)


@pytest.mark.distributed
@pytest.mark.parametrize(("world", "steps"), [(2, 1), (4, 1), (8, 1), (8, 4), (32, 1)])
def test_many_processes(step, whole, world, steps):
    equal(step(world, steps), whole)
