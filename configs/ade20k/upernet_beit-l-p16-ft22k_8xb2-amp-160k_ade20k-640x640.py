"""BEiT-L after fine-tuning on ImageNet-22k: learning rate 2e-5, decay 0.95, drop path 0.2, crops of 640 px.

Protocol SEG-UP-640 (mmseg, configs/beit). Its 320,000 iterations of 8 GPUs x 1 image, two for each step, are these
160,000 of 16, and its warm-up of 3000 is this one of 1500. In mmseg the learning rate is zero after 160,000 of its own.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_l_p16 import *
    from .._base_.datasets.ade20k_640 import *

protocol = "SEG-UP-640"
model["data_preprocessor"].update(size=(640, 640))
model["backbone"].update(img_size=640, positions=False, key_bias=False, layer_scale=1e-6)
model["test_cfg"].update(crop_size=(640, 640), stride=(426, 426))
