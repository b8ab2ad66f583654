"""The classes of a mask: their names, and the pairs that a mirrored image exchanges."""

import numpy as np

from c2fvl.config import DataConfig


def class_names(config: DataConfig, classes: int) -> list[str]:
    """Return the names of all classes but the background, from the settings or by number."""
    if config.class_names:
        return list(config.class_names)
    return ["lesion"] if classes <= 2 else [f"class {number}" for number in range(1, classes)]


def check_classes(config: DataConfig, num_classes: int) -> None:
    """Raise `ValueError` if the data settings do not fit a network with `num_classes` classes."""
    if num_classes > 2 and config.mask != "labels":
        raise ValueError(
            f"the network has {num_classes} classes, but data.mask={config.mask} knows lesion and background only; set "
            "data.mask=labels, or model.arguments.num_classes=1"
        )
    expected = max(num_classes, 2) - 1
    if config.class_names and len(config.class_names) != expected:
        raise ValueError(
            f"data.class_names has {len(config.class_names)} names; expected {expected}, without the background"
        )


def check_mirroring(config: DataConfig) -> None:
    """Raise `ValueError` if training would mirror classes named left and right without exchanging them."""
    words = {word for name in config.class_names for word in name.lower().split()}
    if {"left", "right"} <= words and config.augmentation != "none" and not config.mirrored_classes:
        raise ValueError(
            f"data.augmentation={config.augmentation} mirrors images, and the classes {', '.join(config.class_names)} "
            "distinguish left and right; name the pairs that a mirror exchanges, such as data.mirrored_classes="
            '["left lung", "right lung"], or set data.augmentation=none'
        )


def mirrored_classes_table(config: DataConfig, num_classes: int) -> np.ndarray | None:
    """Return the class (256,) uint8 that each class becomes in a mirrored image; None if no class changes."""
    if not config.mirrored_classes:
        return None
    names = class_names(config, num_classes)
    unknown = [name for name in config.mirrored_classes if name not in names]
    if unknown or len(config.mirrored_classes) % 2 or len(set(config.mirrored_classes)) < len(config.mirrored_classes):
        raise ValueError(
            f"data.mirrored_classes is {list(config.mirrored_classes)}; expected pairs of names from "
            f"{', '.join(names)}, each once"
        )
    table = np.arange(256, dtype=np.uint8)
    for left, right in zip(config.mirrored_classes[::2], config.mirrored_classes[1::2], strict=True):
        first, second = names.index(left) + 1, names.index(right) + 1
        table[first], table[second] = second, first
    return table
