"""Procedural phantoms: images with exact masks for every task, drawn from a seed and written in real file formats.

``PHANTOMS`` maps the name of a task to its writer, a :class:`PhantomWriter`. The name of a bundle starts with the name
of its task (``retinal_vessel_fundus_cenet`` uses ``retinal_vessel_fundus``). A new task is one module here and one line
below.

Example:
    >>> import tempfile
    >>> from medseg_monai.data import load_datalist
    >>> from medseg_monai.phantoms import PHANTOMS
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     datalist = PHANTOMS["liver_ct"](folder, counts={"training": 2}, size=(8, 32, 32), seed=0)
    ...     [item["patient"] for item in load_datalist(datalist, "training")]
    ['phantom_0001', 'phantom_0002']
"""

from functools import partial

from monai.utils import ComponentStore

from .abdomen import CONTRASTS, ORGANS, AbdomenPhantom, draw_abdomen
from .abdomen_dataset import write_abdomen_phantoms, write_chaos_layout, write_lits_layout
from .chest_xray import MANUFACTURERS, OPACITIES, ChestXrayPhantom, Manufacturer, draw_chest_xray
from .chest_xray_dataset import write_chest_xray_phantoms
from .dataset import PhantomWriter, write_fundus_phantoms
from .fundus import CAMERAS, Camera, FundusPhantom, draw_fundus
from .lung_slices import write_finding_lungs_layout, write_lung_slice_phantoms
from .neuropil import NeuropilPhantom, draw_neuropil
from .neuropil_dataset import write_neuropil_phantoms
from .oct import OCTPhantom, draw_oct, write_oct_phantoms
from .thorax import DISEASES, LOBES, ThoraxPhantom, draw_thorax
from .thorax_dataset import write_thorax_phantoms

__all__ = [
    "CAMERAS",
    "CONTRASTS",
    "DISEASES",
    "LOBES",
    "MANUFACTURERS",
    "OPACITIES",
    "ORGANS",
    "PHANTOMS",
    "AbdomenPhantom",
    "Camera",
    "ChestXrayPhantom",
    "FundusPhantom",
    "Manufacturer",
    "NeuropilPhantom",
    "OCTPhantom",
    "PhantomWriter",
    "ThoraxPhantom",
    "draw_abdomen",
    "draw_chest_xray",
    "draw_fundus",
    "draw_neuropil",
    "draw_oct",
    "draw_thorax",
    "phantom_writer",
    "write_abdomen_phantoms",
    "write_chaos_layout",
    "write_chest_xray_phantoms",
    "write_finding_lungs_layout",
    "write_fundus_phantoms",
    "write_lits_layout",
    "write_lung_slice_phantoms",
    "write_neuropil_phantoms",
    "write_oct_phantoms",
    "write_thorax_phantoms",
]

PHANTOMS = ComponentStore("Phantoms", "Writers of phantom data sets by task: writer(folder, *, counts, size, seed).")
PHANTOMS.add("retinal_vessel_fundus", "Fundus photographs, vessels.", partial(write_fundus_phantoms, task="vessel"))
PHANTOMS.add("optic_disc_fundus", "Fundus photographs, optic disc.", partial(write_fundus_phantoms, task="disc"))
PHANTOMS.add("lung_lobe_ct", "Chest CT, five lobes.", write_thorax_phantoms)
PHANTOMS.add("lung_ct2d", "Slices of chest CT, both lungs.", write_lung_slice_phantoms)
PHANTOMS.add("liver_ct", "Abdominal CT, liver.", partial(write_abdomen_phantoms, modality="ct"))
PHANTOMS.add(
    "abdomen_mri", "Abdominal MRI in three contrasts, one organ.", partial(write_abdomen_phantoms, modality="mr")
)
PHANTOMS.add("cell_contour_em", "Sections of nervous tissue in EM, cells.", write_neuropil_phantoms)
PHANTOMS.add("lung_cxr", "Chest X-rays of two manufacturers, both lungs.", write_chest_xray_phantoms)
PHANTOMS.add("retinal_layer_oct", "B-scans of the macula by OCT, eleven layers.", write_oct_phantoms)


def phantom_writer(bundle: str) -> PhantomWriter:
    """Find the phantoms for a bundle: the longest task in :data:`PHANTOMS` that the bundle's name starts with.

    Args:
        bundle: name of a bundle (``retinal_vessel_fundus_cenet``) or of a task (``retinal_vessel_fundus``).

    Returns:
        The writer.

    Raises:
        ValueError: if no task fits; the message lists the tasks.

    Example:
        >>> import tempfile
        >>> from medseg_monai.phantoms import phantom_writer
        >>> write = phantom_writer("lung_cxr_rescrnet")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(folder, counts={"test": 1}, size=(64, 80), seed=0).name
        'datalist.json'
    """
    fitting = [name for name in PHANTOMS.names if f"{bundle}_".startswith(f"{name}_")]
    if not fitting:
        raise ValueError(f"No phantoms for '{bundle}': its name must start with one of {', '.join(PHANTOMS.names)}.")
    writer: PhantomWriter = PHANTOMS[max(fitting, key=len)]
    return writer
