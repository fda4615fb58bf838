"""ImageNet-1k at 224 px, labelled, for frozen encoders: MAE's crop and flip; evaluation at short side 256, centre 224.

MAE draws its crop once and cuts it to the image, resizes bicubically, and changes no colours: jitter and mixup hurt a
linear layer (MAE, A.1). Images are read by Pillow, and not turned by their EXIF orientation.
"""

from mmengine.config import read_base

with read_base():
    from .imagenet_224 import *

from mmpretrain.datasets import PackInputs, RandomFlip

from cmae_mm.data.load_image import LoadImage
from cmae_mm.data.loop_free_crop import LoopFreeResizedCrop

train_pipeline = [
    dict(type=LoadImage),
    dict(type=LoopFreeResizedCrop, scale=224, backend="pillow", interpolation="bicubic"),
    dict(type=RandomFlip, prob=0.5, direction="horizontal"),
    dict(type=PackInputs),
]
train_dataloader.update(batch_size=512)
train_dataloader["dataset"].update(pipeline=train_pipeline)
val_dataloader.update(batch_size=250)
test_dataloader = val_dataloader
