"""The finding of the model as a DICOM structured report with text.

It is marked as neither complete nor verified, since nobody has confirmed what a model found.
"""

import hashlib
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from c2fvl.inference.outputs.codes import IS_SOURCE, Triple, concept
from c2fvl.inference.outputs.equipment import SERIES_NUMBERS, algorithm_name, equipment, mark_deidentified
from c2fvl.inference.outputs.result_info import RESEARCH_ONLY, ResultInfo
from c2fvl.inference.outputs.sides import orientation_of, remark_on_sides
from c2fvl.inference.outputs.source import Source, explained, read_source, tolerant

if TYPE_CHECKING:
    from highdicom.sr import ContainerContentItem, ObservationContext
    from pydicom import Dataset

_REPORT = ("18748-4", "LN", "Diagnostic imaging report")
_FINDINGS, _FINDING = ("121070", "DCM", "Findings"), ("121071", "DCM", "Finding")
_PREVIOUS, _PREVIOUS_FINDING = ("121068", "DCM", "Previous Findings"), ("121069", "DCM", "Previous Finding")
_COMMENT = ("121106", "DCM", "Comment")
ENGLISH = ("en-US", "RFC5646", "English (United States)")


@tolerant
def report(
    source: "Dataset | Sequence[Dataset]",
    finding: str,
    about: ResultInfo,
    *,
    given_report: str = "",
    keep_text: bool = False,
    deidentified: bool = False,
) -> "Dataset":
    """Return the finding of the model as a text report (Enhanced SR) that refers to its source images.

    `finding` is a sentence of the program, in which sides are the patient's. `given_report` is what the user gave to
    the model; it is written only with `keep_text`, because it can name the patient. Raises `ValueError` for an empty
    finding and for a source to which no result can refer.
    """
    with explained():
        import highdicom
    if not finding.strip():
        raise ValueError("the finding is empty; give the sentence that says what the model found")
    read = read_source(source, deidentified=deidentified, needs_place=False)
    findings = [_text(_FINDING, finding), _text(_COMMENT, _comment(about, read)), *_images(read)]
    sections = [_section(_FINDINGS, findings)]
    if keep_text and given_report.strip():
        sections.append(_section(_PREVIOUS, [_text(_PREVIOUS_FINDING, given_report)]))
    language = highdicom.sr.LanguageOfContentItemAndDescendants(concept(ENGLISH))
    root = highdicom.sr.ContainerContentItem(concept(_REPORT), is_content_continuous=False, template_id="2000")
    root.ContentSequence = highdicom.sr.ContentSequence([*language, *observation_context(about), *sections])
    made = highdicom.sr.EnhancedSR(
        evidence=read.headers,
        content=root,
        series_number=SERIES_NUMBERS["sr"],
        series_description="c2fvl finding, research use only",
        **equipment(about),
    )
    if deidentified:
        mark_deidentified(made)
    return made


def observation_context(about: ResultInfo) -> "ObservationContext":
    """Return that a device observed, not a person: the program with this model."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext

    name, version = algorithm_name(about)
    digest = hashlib.sha256(f"c2fvl {about.package_version} {about.model} {about.weights_sha256}".encode()).digest()
    device = DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}",
        name=name,
        manufacturer_name="c2fvl project",
        model_name=f"{name} {version}"[:64],
        serial_number=about.weights_sha256[:16] or "unknown",
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=concept(("121007", "DCM", "Device")), observer_identifying_attributes=device
        )
    )


def _comment(about: ResultInfo, read: Source) -> str:
    """Return what a reader must know of the finding: what made it, and that its sides are assumed, if they are."""
    settings = ", ".join(f"{name} {value}" for name, value in about.settings.items())
    parts = [f"{RESEARCH_ONLY}.", f"{' '.join(algorithm_name(about))} ({settings})."]
    remark = remark_on_sides(orientation_of(read.first, about.orientation))
    if remark:
        parts.append(f"{remark.capitalize()}.")
    return " ".join(parts)


def _section(name: Triple, items: Sequence[Any]) -> "ContainerContentItem":
    from highdicom.sr import ContainerContentItem, ContentSequence

    section = ContainerContentItem(concept(name), is_content_continuous=False, relationship_type="CONTAINS")
    section.ContentSequence = ContentSequence(items)
    return section


def _text(name: Triple, value: str) -> Any:
    from highdicom.sr import TextContentItem

    return TextContentItem(name=concept(name), value=value, relationship_type="CONTAINS")


def _images(read: Source) -> list[Any]:
    from highdicom.sr import ImageContentItem

    return [
        ImageContentItem(concept(IS_SOURCE), header.SOPClassUID, header.SOPInstanceUID, relationship_type="CONTAINS")
        for header in read.headers
    ]
