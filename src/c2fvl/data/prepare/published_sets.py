"""The public data sets as they are downloaded: their folders, their file names and how many images they have."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "frames"})
MASK_FOLDERS = frozenset({"groundtruths", "groundtruth", "masks", "mask", "labelcol"})
"""Names of folders in lower case, without spaces, hyphens and underscores."""
_ARRANGED = {"trainfolder": ("train",), "valfolder": ("val",), "testfolder": ("test",)}
"""The folders of LViT, in which every image is in its split already."""


@dataclass(frozen=True)
class PublishedSet:
    """What is known of a data set."""

    title: str
    layout: str
    """What the download looks like, in words."""
    subsets: Mapping[str, tuple[str, ...]]
    """Folder above those of images and masks → splits that its images may be in; "" is any folder."""
    names: str
    """Regular expression for the beginning of its file names."""
    mask_name: str
    """Name of a mask, without its ending, from {name}, that of its image."""
    counts: Mapping[str, int]
    """Published number of images by split."""
    fractions: Mapping[str, float]
    """Percent of the images in each split, where they are divided by patient."""


PUBLISHED_SETS: Mapping[str, PublishedSet] = MappingProxyType(
    {
        "qata": PublishedSet(
            "QaTa-COV19",
            "QaTa-COV19-v2/Train Set/Images, QaTa-COV19-v2/Train Set/Ground-truths, and the same of Test Set",
            {"trainset": ("train", "val"), "testset": ("test",), **_ARRANGED},
            r"covid_\d|sub-S\d",
            "mask_{name}",
            {"train": 5716, "val": 1429, "test": 2113},
            {"train": 80, "val": 20, "test": 0},
        ),
        "mosmed": PublishedSet(
            "MosMedData+",
            "frames and masks, with files of the same names",
            {"": ("train", "val", "test"), **_ARRANGED},
            "Jun_|Morozov_|bjorke_",
            "{name}",
            {"train": 2183, "val": 273, "test": 273},
            {"train": 80, "val": 10, "test": 10},
        ),
        "monuseg": PublishedSet(
            "MoNuSeg",
            "Train_Folder/img, Train_Folder/labelcol, and the same of Val_Folder and Test_Folder, as in the repository "
            "of LViT",
            _ARRANGED,
            "TCGA-",
            "{name}",
            {"train": 24, "val": 6, "test": 14},
            {"train": 80, "val": 20, "test": 0},
        ),
    }
)
"""By the name that `c2fvl prepare` takes."""
