"""Settings that train in seconds."""

TIMES = {"train_seconds", "val_seconds", "images_per_second", "waiting_fraction"}
"""What a run's log says of time, which no two runs share."""

TINY = (
    "data.image_size=32", "model.arguments.image_size=32", "model.arguments.base_width=8", "train.threads=1",
    "train.epochs=2", "train.batch_size=4", "train.device=cpu",
)  # fmt: skip
"""Overrides of the preset `debug` that make an epoch take about a second."""
