"""The classes of a mask."""

import numpy as np

from c2fvl.config import DataConfig


def class_names(config: DataConfig, classes: int) -> list[str]:
    """Return the names of all classes but the background, as the settings have them or by number."""
    if config.class_names:
        return list(config.class_names)
    return ["lesion"] if classes <= 2 else [f"class {number}" for number in range(1, classes)]


def check_classes(config: DataConfig, num_classes: int) -> None:
    """Raise `ValueError` where the settings of data do not fit a network of so many classes."""
    if num_classes > 2 and config.mask != "labels":
        raise ValueError(
            f"the network has {num_classes} classes, but data.mask={config.mask} knows lesion and background only; set "
            "data.mask=labels, or model.arguments.num_classes=1"
        )
    expected = max(num_classes, 2) - 1
    if config.class_names and len(config.class_names) != expected:
        raise ValueError(
            f"data.class_names has {len(config.class_names)} names; expected are {expected}, without the background"
        )


def check_mirroring(config: DataConfig) -> None:
    """Raise `ValueError` where training would mirror classes that tell left from right."""
    words = {word for name in config.class_names for word in name.lower().split()}
    if {"left", "right"} <= words and config.augmentation != "none" and not config.mirrored_classes:
        raise ValueError(
            f"data.augmentation={config.augmentation} mirrors films, and the classes {', '.join(config.class_names)} "
            "tell left from right; name the pairs that a mirror exchanges, such as data.mirrored_classes="
            '["left lung", "right lung"], or set data.augmentation=none'
        )


def mirrored_classes_table(config: DataConfig, num_classes: int) -> np.ndarray | None:
    """Return the class that each class becomes where a film is mirrored, or None where none changes."""
    if not config.mirrored_classes:
        return None
    names = class_names(config, num_classes)
    unknown = [name for name in config.mirrored_classes if name not in names]
    if unknown or len(config.mirrored_classes) % 2 or len(set(config.mirrored_classes)) < len(config.mirrored_classes):
        raise ValueError(
            f"data.mirrored_classes is {list(config.mirrored_classes)}; expected are pairs of names from "
            f"{', '.join(names)}, each once"
        )
    table = np.arange(256, dtype=np.uint8)
    for left, right in zip(config.mirrored_classes[::2], config.mirrored_classes[1::2], strict=True):
        places = names.index(left) + 1, names.index(right) + 1
        table[places[0]], table[places[1]] = places[1], places[0]
    return table
