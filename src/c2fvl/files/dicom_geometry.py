"""How a DICOM film lies: which way it is turned, from which side it was taken, and how far its pixels are apart."""

import re
from dataclasses import dataclass
from typing import Any

from c2fvl.files.dicom_headers import first_item, numbers, text, texts

_LATERAL_VIEWS = {"LL", "RL", "LATERAL", "LARGE LATERAL", "LAT"}
_LATERAL_WORD = re.compile(r"\b(LAT|LATERAL|LATERALE|SEITLICH|PROFIL|PROFILE)\b")
_FRONTAL_WORD = re.compile(r"\b(PA|AP|FRONTAL|POSTERO|ANTERO|POSTEROANTERIOR|ANTEROPOSTERIOR|DECUBITUS|DECUB)\b")
_FORCE = "give --force-view to segment it all the same"


@dataclass(frozen=True)
class Lie:
    """How a film lies in its file; the fields are those of `Picture`."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False
    orientation_source: str = "assumed"
    warnings: tuple[str, ...] = ()


def lie_of(dataset: Any, *, force_view: bool = False) -> Lie:
    """Return how the film lies.

    PatientOrientation decides: where the rows and the columns run to in the patient. Laterality does not, since it
    names the side of the body that was taken. Raises `ValueError` for a lateral film unless `force_view` is set.
    """
    reason, remarks = _lateral(dataset)
    if reason:
        if not force_view:
            raise ValueError(f"this is a lateral film ({reason}), expected a frontal one (PA or AP); {_FORCE}")
        return Lie(warnings=(f"This is a lateral film ({reason}); networks are trained on frontal ones.",))
    given = texts(dataset, "PatientOrientation")
    if text(dataset, "AnatomicalOrientationType") == "QUADRUPED":  # there "R" is rostral and "L" the left
        return Lie(warnings=(*remarks, "The film is of an animal (AnatomicalOrientationType QUADRUPED)."))
    across, down = (direction[:1] for direction in given) if len(given) == 2 else ("", "")
    transposed = across in ("H", "F") and down in ("L", "R")
    if transposed:
        across, down = down, across
    if across in ("L", "R") and down in ("H", "F"):
        return Lie(transposed, across == "R", down == "H", "file", remarks)
    if given:
        remarks += (f"PatientOrientation is {'/'.join(given)}, which says nothing of a chest film; it was not used.",)
    return Lie(warnings=remarks)


def _lateral(dataset: Any) -> tuple[str, tuple[str, ...]]:
    """Return why the film is taken for a lateral one, empty if it is not, and warnings."""
    directions = texts(dataset, "PatientOrientation")
    if len(directions) == 2 and any(direction[:1] in ("A", "P") for direction in directions):
        return f"PatientOrientation {'/'.join(directions)}", ()
    view = text(dataset, "ViewPosition")
    if view in _LATERAL_VIEWS:
        return f"ViewPosition {view}", ()
    code = first_item(dataset, "ViewCodeSequence")
    for name, words in (
        ("ViewCodeSequence", "" if code is None else text(code, "CodeMeaning")),
        ("SeriesDescription", text(dataset, "SeriesDescription")),
    ):
        if _LATERAL_WORD.search(words):
            if not _FRONTAL_WORD.search(words):
                return f"{name} {words!r}", ()
            return "", (f"{name} is {words!r}; make sure that this film is the frontal one.",)
    return "", ()


def spacing_of(dataset: Any) -> tuple[tuple[float, float] | None, str]:
    """Return the distance in mm between rows and between columns of the file, and one of `SPACING_SOURCES`.

    A distance on the detector is larger than in the patient by the magnification, which few files give.
    """
    pixel, detector = _pair(dataset, "PixelSpacing"), _pair(dataset, "ImagerPixelSpacing")
    if pixel and (text(dataset, "PixelSpacingCalibrationType") or (detector and detector != pixel)):
        return pixel, "calibrated"
    found = detector or pixel or _pair(dataset, "NominalScannedPixelSpacing")
    if found is None:
        return None, "unknown"
    factor = (numbers(dataset, "EstimatedRadiographicMagnificationFactor") or (0.0,))[0]
    if factor >= 1:
        return (found[0] / factor, found[1] / factor), "magnification"
    return found, "detector"


def _pair(dataset: Any, keyword: str) -> tuple[float, float] | None:
    found = numbers(dataset, keyword)
    return (found[0], found[1]) if len(found) == 2 and min(found) > 0 else None
