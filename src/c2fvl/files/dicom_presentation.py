"""From the stored bits of a grey DICOM image to grey values in [0, 1], black is 0.

Every step depends on the value of a pixel alone, so the steps are computed once for each possible value, in float64,
and the pixels are looked up in the resulting table. The order is that of DICOM: stored value, modality transform
(rescale or table), VOI transform (table or window), photometric interpretation. Padding is found by the stored value
and becomes black at the end. pydicom's own functions are not used: they take an image with unused high bits as it is,
and end in exceptions on empty or senseless values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.files.dicom_headers import PixelLayout, first_item, has_items, has_value, numbers, text, texts, value, whole

_Values = NDArray[np.float64]
_PADDING = "PixelPaddingValue"
_STRETCHED = "so the grey values were stretched between the percentiles 0.5 and 99.5 of the pixels"


@dataclass(frozen=True)
class GreyTable:
    """What each code, the stored bits of a pixel, stands for."""

    shown: NDArray[np.float32] | None
    """Grey values in [0, 1]; None where the file's window or table is senseless."""
    source: str
    """What decides which values are black and white: voi_lut, window, modality_lut or bits."""
    values: _Values
    """Values after the modality transform."""
    is_padding: NDArray[np.bool_]
    is_inverted: bool
    """Whether high values are black (MONOCHROME1)."""
    warnings: tuple[str, ...] = ()

    def stretched(self, low: float, high: float) -> NDArray[np.float32]:
        """Return the grey values when the values `low` and `high` become black and white, or white and black."""
        return self._finished((self.values - low) / max(high - low, 1e-12))

    def _finished(self, shown: _Values) -> NDArray[np.float32]:
        shown = np.clip(shown, 0, 1)
        if self.is_inverted:
            shown = 1 - shown
        shown[self.is_padding] = 0
        return shown.astype(np.float32)


@dataclass(frozen=True)
class _Lookup:
    """A table of a modality or VOI transform."""

    first: int
    bits: int
    entries: _Values

    def __call__(self, values: _Values) -> _Values:
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)]


def grey_table(dataset: Any, layout: PixelLayout) -> GreyTable:
    """Return the table of a grey image."""
    stored = _stored_values(layout)
    values, (low, high), source, remarks = _modality(dataset, layout, stored)
    warnings = [*remarks, *_photometric_remarks(dataset, layout)]
    shown: _Values | None
    if has_items(dataset, "VOILUTSequence"):
        source, shown = "voi_lut", None
        lookup = _lookup(first_item(dataset, "VOILUTSequence"), layout.signed or low < 0)
        if lookup is not None:
            shown = lookup(values) / (2**lookup.bits - 1)
        else:
            warnings.append(f"The VOI table of the file (VOILUTSequence) is senseless, {_STRETCHED}.")
    elif has_value(dataset, "WindowCenter") or has_value(dataset, "WindowWidth"):
        source, shown = "window", _windowed(dataset, values)
        if shown is None:
            given = [text(dataset, name) or "nothing that can be read" for name in ("WindowCenter", "WindowWidth")]
            warnings.append(f"The window of the file (center {given[0]}, width {given[1]}) is senseless, {_STRETCHED}.")
    else:
        shown = (values - low) / max(high - low, 1e-12)
    table = GreyTable(
        None, source, values, _padding(dataset, layout, stored), layout.photometric == "MONOCHROME1", tuple(warnings)
    )
    if shown is None:
        return table
    return GreyTable(table._finished(shown), source, values, table.is_padding, table.is_inverted, table.warnings)


def rescaled(dataset: Any, layout: PixelLayout) -> tuple[_Values, NDArray[np.bool_], tuple[str, ...]]:
    """Return for each code its value after the modality transform and whether it is padding, and warnings."""
    stored = _stored_values(layout)
    values, _, _, remarks = _modality(dataset, layout, stored)
    return values, _padding(dataset, layout, stored), tuple(remarks)


def _stored_values(layout: PixelLayout) -> NDArray[np.int64]:
    stored = (np.arange(2**layout.allocated) >> layout.shift) & (2**layout.stored - 1)
    if layout.signed:
        stored[stored >= 2 ** (layout.stored - 1)] -= 2**layout.stored
    return stored


def _modality(
    dataset: Any, layout: PixelLayout, stored: NDArray[np.int64]
) -> tuple[_Values, tuple[float, float], str, list[str]]:
    """Return the values after the modality transform, their range, what gives the range, and warnings."""
    warnings: list[str] = []
    values = stored.astype(np.float64)
    if has_items(dataset, "ModalityLUTSequence"):
        lookup = _lookup(first_item(dataset, "ModalityLUTSequence"), layout.signed)
        if lookup is not None:
            return lookup(values), (0, 2**lookup.bits - 1), "modality_lut", warnings
        warnings.append("The modality table of the file (ModalityLUTSequence) is senseless and was not used.")
    slope, intercept = ((numbers(dataset, name) or (default,))[0] for name, default in _RESCALE)
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = values * slope + intercept
    if slope == 0 or not np.isfinite(rescaled).all():
        warnings.append(f"The rescaling of the file (slope {slope:g}, intercept {intercept:g}) was not used.")
        rescaled = values
    return rescaled, (float(rescaled.min()), float(rescaled.max())), "bits", warnings


_RESCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


def _windowed(dataset: Any, values: _Values) -> _Values | None:
    """Return the values in the first window of the file, or None if that is senseless."""
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    function = (texts(dataset, "VOILUTFunction") or ("LINEAR",))[0]
    if not centers or not widths or widths[0] <= 0:
        return None
    center, width = centers[0], widths[0]
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if width < 1:
        return None
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _lookup(item: Any, signed: bool) -> _Lookup | None:
    """Return the table of an item of a sequence; None if it contradicts itself or there is no item."""
    if item is None:
        return None
    descriptor, data = numbers(item, "LUTDescriptor"), value(item, "LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    first %= 2**16
    if signed and first >= 2**15:
        first -= 2**16
    entries = _entries(data, count, "<" if getattr(item, "original_encoding", (0, True))[1] is not False else ">")
    if entries is None or not 1 <= bits <= 16 or entries.max() > 2**bits - 1:
        return None
    return _Lookup(first, bits, entries.astype(np.float64))


def _entries(data: Any, count: int, order: str) -> NDArray[Any] | None:
    """Return `count` entries; they may be words as numbers, words as bytes, or single bytes."""
    if isinstance(data, int):
        data = [data]
    try:
        words = np.frombuffer(data, f"{order}u2") if isinstance(data, bytes) else np.asarray(data).astype(np.uint16)
        if len(words) * 2 in (count, count + 1) and count > 1:
            packed = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else words.astype("<u2").view(np.uint8)
            return packed[:count]
    except (TypeError, ValueError, OverflowError):
        return None
    return words[:count] if len(words) >= count else None


def _padding(dataset: Any, layout: PixelLayout, stored: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell for each code whether it is padding, by the stored value."""
    if not numbers(dataset, _PADDING):
        return np.zeros(len(stored), bool)
    first = _wrapped(whole(dataset, _PADDING), layout)
    last = _wrapped(whole(dataset, "PixelPaddingRangeLimit"), layout) if numbers(dataset, _LIMIT) else first
    return (stored >= min(first, last)) & (stored <= max(first, last))


_LIMIT = "PixelPaddingRangeLimit"


def _wrapped(number: int, layout: PixelLayout) -> int:
    """Return a value that may have been read with the wrong sign."""
    number %= 2**layout.allocated
    return number - 2**layout.allocated if layout.signed and number >= 2 ** (layout.allocated - 1) else number


def _photometric_remarks(dataset: Any, layout: PixelLayout) -> list[str]:
    shape = text(dataset, "PresentationLUTShape")
    if layout.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return ["The file does not say whether low values are black (PhotometricInterpretation); they were taken so."]
    expected = "INVERSE" if layout.photometric == "MONOCHROME1" else "IDENTITY"
    if shape in ("INVERSE", "IDENTITY") and shape != expected:
        return [
            f"The file contradicts itself: PhotometricInterpretation is {layout.photometric}, PresentationLUTShape "
            f"{shape}. The former was followed; if black and white look exchanged, export the image again."
        ]
    return []
