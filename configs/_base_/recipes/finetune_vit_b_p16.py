"""Fine-tuning of ViT-B/16 on ImageNet-1k: MAE's repository (83.66 top-1 with its released weights, 1600 epochs)."""

from mmengine.config import read_base

with read_base():
    from ..datasets.imagenet_224 import *
    from ..models.vit_classifier import *
    from ..runtime import *
    from ..schedules.imagenet_adamw_100e import *

protocol = "IN-FT"
env_cfg.update(cudnn_benchmark=True)  # every crop has the same size
default_hooks.update(finite_loss=finite_loss)
default_hooks["checkpoint"].update(save_best="accuracy/top1", rule="greater")
