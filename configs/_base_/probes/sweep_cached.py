"""DINOv2's sweep on cached features: 13 rates x {1, 4} blocks x without and with the mean patch token = 52 layers.

10 epochs x 1,238 iterations (1,268,355 / 1024) = 12,380 iterations; DINOv2 makes 12,500. The rates are those of its
code. 1 % of the training images choose the layer; the layer that is best on the validation images, which DINOv2
reports, is recorded under a key of its own. Images are not augmented. probe.batch_norm=True for masked image models.
"""

from cmae_mm.transfer.sweep_probe import SweepProbe

probe = dict(
    type=SweepProbe,
    rates=[1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1],
    blocks=[1, 4],
    pooling=[False, True],
    epochs=10,
    batch_size=1024,
    val_interval=None,
    min_steps=12_000,
    batch_norm=False,
    share=0.01,
)
protocol = "IN-LIN-SWEEP-CACHED"
