"""Multi-View MAE ablation. One crop, masked twice: both views have one target.

First reading of the paper's row "without two different targets".
"""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model["data_preprocessor"].update(two_targets=False)
