"""BEiT-B after fine-tuning on ImageNet-22k: learning rate 3e-5, decay 0.9, crops of 640 px, windows of stride 426.

Protocol SEG-UP-640 (microsoft/unilm, config ..pt2ft): 53.61 mIoU, 54.26 with multi-scale and flip.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16_640 import *

model["backbone"].update(positions=False, key_bias=False, layer_scale=0.1)
optim_wrapper["optimizer"].update(lr=3e-5)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.9)
