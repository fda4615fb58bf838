"""UperNet on the hybrid ViT-B: ConvMAE's recipe (51.66 mIoU there), 160,000 iterations. Protocol SEG-UP-HYBRID.

CMAE's 52.5 most likely belongs to this encoder; how it was trained there is not published (reconstructed).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_hybrid_b import *
