"""What labels mean: the coded vocabulary of the segments that bundles predict."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

__all__ = ["ABDOMINAL_ORGANS", "LUNGS", "LUNG_LOBES", "OPTIC_DISC", "RETINAL_VESSEL", "Segment", "find_organ"]

_ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")  # pydicom 2 has two codes of this name


@dataclass(frozen=True)
class Segment:
    """How one label is described in a DICOM SEG.

    Attributes:
        name: the name that viewers show, at most 64 characters.
        type: code of the structure (segmented property type).
        colour: recommended display colour, RGB from 0 to 255.
        category: code of the kind of structure (segmented property category).
        region: code of the region of the body, for a type that occurs in many (anatomic region).

    Example:
        >>> from pydicom.sr.codedict import codes
        >>> from medseg_monai.data import Segment
        >>> Segment("lungs", codes.SCT.Lung, colour=(86, 180, 233)).type.value
        '39607008'
    """

    name: str
    type: Code
    colour: tuple[int, int, int]
    category: Code = _ANATOMICAL_STRUCTURE
    region: Code | None = None


def _lobe(name: str, code: str, colour: tuple[int, int, int]) -> Segment:
    meaning = f"{name.split()[1].capitalize()} lobe of {name.split()[0]} lung"
    return Segment(name, Code(code, "SCT", meaning), colour)


LUNG_LOBES = (
    _lobe("left upper lobe", "44714003", (230, 159, 0)),
    _lobe("left lower lobe", "41224006", (86, 180, 233)),
    _lobe("right upper lobe", "42400003", (0, 158, 115)),
    _lobe("right lower lobe", "266005", (204, 121, 167)),
    _lobe("right middle lobe", "72481006", (240, 228, 66)),
)
"""The five lobes in the order of CTSU-Net's labels 1 to 5, in SNOMED CT.

DICOM's own context group (CID 7151) has one code for both upper lobes and one for both lower lobes, with a modifier for
the side; these codes include the side. The category (91723000) is that of CID 7150.
"""

LUNGS = (Segment("lungs", codes.SCT.Lung, (86, 180, 233)),)
"""Both lungs in a radiograph as one label: 39607008 "Lung" in SNOMED CT (CID 7151), without a side."""

OPTIC_DISC = (Segment("optic disc", codes.SCT.OpticNerveHead, (230, 159, 0)),)
"""The optic disc in a photograph of the fundus: 81016008 "Optic nerve head" in SNOMED CT (CID 4209)."""

RETINAL_VESSEL = (Segment("retinal vessel", codes.SCT.BloodVessel, (204, 121, 167), region=codes.SCT.Retina),)
"""Arteries and veins in a photograph of the fundus as one label.

In SNOMED CT they are 59820001 "Blood Vessel" (CID 7151), and their anatomic region is 5665001 "Retina" (CID 4209).
"""

ABDOMINAL_ORGANS = {
    "liver": Segment("liver", codes.SCT.Liver, (204, 121, 167)),
    "spleen": Segment("spleen", codes.SCT.Spleen, (0, 158, 115)),
    "kidney": Segment("kidneys", codes.SCT.Kidney, (230, 159, 0)),
}
"""ANU-Net's organs by the names that its bundles use, in SNOMED CT (CID 7151).

The codes are 10200004 "Liver", 78961009 "Spleen" and 64033007 "Kidney"; both kidneys are one label, without a side.
"""


def find_organ(organ: str | None, *, trained_for: str | None = None) -> Segment:
    """The description of one of :data:`ABDOMINAL_ORGANS`.

    Args:
        organ: name of the organ; ``None`` if neither the user nor the model names one.
        trained_for: the organ that the model was trained for; ``None`` if its file does not say.

    Raises:
        ValueError: no organ, an unknown organ, or another organ than the model's.

    Example:
        >>> from medseg_monai.data import find_organ
        >>> find_organ("kidney").name
        'kidneys'
    """
    choice = ", ".join(ABDOMINAL_ORGANS)
    if organ is None:
        raise ValueError(f"the model does not say which organ it was trained for: give organ, one of {choice}.")
    if organ not in ABDOMINAL_ORGANS:
        raise ValueError(f"organ='{organ}' is unknown: choose from {choice}.")
    if trained_for not in (None, organ):
        raise ValueError(f"organ='{organ}', but the model was trained for '{trained_for}'; give a model for {organ}.")
    return ABDOMINAL_ORGANS[organ]
