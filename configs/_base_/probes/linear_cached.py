"""MAE's linear probe on cached features: 90 epochs x 78 iterations (1,281,167 / 16384) = 7,020 iterations.

LARS at 0.1 x 16384 / 256 = 6.4, 10 epochs of warm-up, class token, batch norm without scale and shift. Images are not
augmented, so the protocol has a key of its own. With few labels epochs are repeated until there are 2,000 steps.
"""

from cmae_mm.transfer.linear_probe import LinearProbe

probe = dict(
    type=LinearProbe,
    parts=["cls-1"],
    epochs=90,
    batch_size=16384,
    base_lr=0.1,
    warmup=10,
    by_epoch=False,
    val_interval=5,
    min_steps=2000,
    optimizer="lars",
    momentum=0.9,
    weight_decay=0.0,
    batch_norm=True,
    std=0.01,
)
protocol = "IN-LIN-MAE-CACHED"
