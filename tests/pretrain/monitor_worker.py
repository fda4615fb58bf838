"""One process of the two in test_monitor_processes: ``monitor_worker.py FOLDER`` with RANK and the like set."""

import json
import os
import sys
from pathlib import Path

import torch
from monitored import Images, Model, fake_runner, probe

from cmae_mm.engine.finite_hook import FiniteLossHook
from cmae_mm.engine.throughput_hook import ThroughputHook
from cmae_mm.errors import UserError


def main(folder):
    import torch.distributed as dist
    from mmengine.logging import MessageHub

    from cmae_mm.engine import throughput_hook

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    reads = []
    read = Images.__getitem__
    Images.__getitem__ = lambda self, i: reads.append(i) or read(self, i)
    runner = fake_runner(folder, Model())
    runner.rank, runner.message_hub = rank, MessageHub("two")
    hook = probe(batch_size=4)
    hook.before_train(runner)

    throughput = ThroughputHook()
    throughput._images, throughput._seconds, throughput._wait = ((30, 10.0, 2.0), (20, 8.0, 6.0))[rank]
    throughput_hook.peak_memory = lambda: (rank + 1) * 2**30
    throughput._publish(runner)
    found = {"entries": hook.entries, "read": len(reads), "sentence": None, "memory_own": rank + 1}
    found |= {
        n: runner.message_hub.get_scalar(f"train/{n}").current()
        for n in ("images_per_s", "data_wait", "memory_gib")
    }

    losses = {"loss": torch.tensor(1.0), "loss_rec": torch.tensor(0.5)}
    FiniteLossHook().after_train_iter(runner, 0, outputs=losses)
    if rank == 1:
        losses["loss"] = torch.tensor(float("nan"))
    try:
        FiniteLossHook().after_train_iter(runner, 1, outputs=losses)
    except UserError as error:
        found["sentence"] = str(error)
    finally:
        (folder / f"{rank}.json").write_text(json.dumps(found))
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
