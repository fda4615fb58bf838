"""UperNet on ViT-B/16, 512 px, 160,000 iterations: MAE's settings (48.1 mIoU)."""

from mmengine.config import read_base

with read_base():
    from ..datasets.ade20k_512 import *
    from ..models.upernet_vit import *
    from ..runtime import *
    from ..schedules.upernet_160k import *

protocol = "SEG-UP"
env_cfg.update(cudnn_benchmark=True)  # every crop has the same size
default_hooks["checkpoint"].update(
    by_epoch=False, interval=train_cfg["val_interval"], save_best="mIoU", rule="greater"
)
