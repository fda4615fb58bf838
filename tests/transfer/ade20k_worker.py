"""One process of the two in test_ade20k_metric: ``ade20k_worker.py FOLDER`` with RANK and the like set."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import cmae_mm.compat  # noqa: F401
from cmae_mm.transfer.dense_probe import DenseKNNHead
from cmae_mm.transfer.segmentation_metric import CMAESegMetric

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.set_num_threads(1)
dist.init_process_group("gloo")
data = torch.load(folder / "data.pt", weights_only=True)
metric = CMAESegMetric()
metric.dataset_meta = {"classes": data["classes"]}
images = len(data["true"])
for k in range(
    rank, images + images % 2, 2
):  # what mmengine's DefaultSampler gives: the last one is a repetition
    maps = {
        key: {"data": data[name][k % images][None]}
        for key, name in (("gt_sem_seg", "true"), ("pred_sem_seg", "given"))
    }
    metric.process({}, [maps])
found = {"scores": metric.evaluate(images)}
head = DenseKNNHead(patch_size=4, neighbours=3, in_channels=6, in_index=0, num_classes=3)
mine = slice(0, 2) if rank == 0 else slice(2, 3)  # not equally many
head.remember((data["maps"][mine],), data["labels"][mine], count=15)
found["memory"] = head.share_memory()
found["shares"] = head((data["maps"],)).tolist()
(folder / f"{rank}.json").write_text(json.dumps(found))
dist.destroy_process_group()
