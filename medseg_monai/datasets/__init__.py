"""Public data sets: each reader turns a folder as published into a data list.

``DATASETS`` maps the short name of a data set to its reader; it drives the command line and the tests. A new data set
is one module here and one line below.

Example:
    >>> import tempfile
    >>> from medseg_monai.datasets import DATASETS
    >>> from medseg_monai.phantoms import write_lits_layout
    >>> with tempfile.TemporaryDirectory() as folder:  # phantoms in the folders and files of LiTS
    ...     _ = write_lits_layout(f"{folder}/LiTS", patients=2, size=(8, 32, 40), seed=0)
    ...     datalist = DATASETS["lits"](f"{folder}/LiTS", derived=f"{folder}/derived", validation_fraction=0.0)
    >>> {section: len(items) for section, items in datalist.items()}
    {'training': 1, 'validation': 0, 'test': 1}
"""

from functools import partial

from monai.utils import ComponentStore

from .chaos import ORGANS as CHAOS_ORGANS
from .chaos import read_chaos
from .covid19_ct import read_covid19_ct
from .curvas import COLOURS as CURVAS_ORGANS
from .curvas import read_curvas
from .drishti_gs import read_drishti_gs
from .drive import read_drive
from .duke_dme import read_duke_dme
from .idrid import read_idrid
from .isbi2012 import read_isbi2012
from .jsrt import read_jsrt
from .lctsc import read_lctsc
from .lits import read_lits
from .lobes import LABEL_MAPS, read_lobes
from .lung_ct2d import FOLDS, read_lung_ct2d
from .messidor import read_messidor
from .montgomery import read_montgomery
from .nr206 import read_nr206
from .oct_folders import read_cirrus_onh, read_healthy_spectralis, read_oct_boundaries, read_oct_labels
from .origa import read_origa
from .rim_one import read_rim_one
from .shenzhen import read_shenzhen
from .v7_darwin import read_v7_darwin
from .vnc_gerhard import read_vnc_gerhard

__all__ = [
    "DATASETS",
    "LABEL_MAPS",
    "read_chaos",
    "read_cirrus_onh",
    "read_covid19_ct",
    "read_curvas",
    "read_drishti_gs",
    "read_drive",
    "read_duke_dme",
    "read_healthy_spectralis",
    "read_idrid",
    "read_isbi2012",
    "read_jsrt",
    "read_lctsc",
    "read_lits",
    "read_lobes",
    "read_lung_ct2d",
    "read_messidor",
    "read_montgomery",
    "read_nr206",
    "read_oct_boundaries",
    "read_oct_labels",
    "read_origa",
    "read_rim_one",
    "read_shenzhen",
    "read_v7_darwin",
    "read_vnc_gerhard",
]

DATASETS = ComponentStore("Datasets", "Readers of public data sets by their short name.")
DATASETS.add("drive", "DRIVE (Staal et al., 2004): retinal vessels, 40 images.", read_drive)
DATASETS.add("drishti_gs", "DRISHTI-GS1 (Sivaswamy et al., 2015): optic disc, 101 images.", read_drishti_gs)
DATASETS.add("idrid", "IDRiD (Porwal et al., 2018): optic disc, 81 images.", read_idrid)
DATASETS.add("origa", "ORIGA-light (Zhang et al., 2010): optic disc, 650 images.", read_origa)
DATASETS.add("messidor", "Messidor (Decenciere et al., 2014): optic disc, 1200 images.", read_messidor)
DATASETS.add("rim_one", "RIM-ONE r1 (Fumero et al., 2011): optic disc, 169 images, five experts.", read_rim_one)
for _label, _description in {
    "majority": "the pixels of three experts or more",
    "expert1": "the first expert's",
}.items():
    DATASETS.add(
        f"rim_one_{_label}",
        f"RIM-ONE r1 (Fumero et al., 2011): optic disc, trained on {_description}.",
        partial(read_rim_one, train_label=_label, source=f"rim_one_{_label}"),
    )
DATASETS.add("lobes", "Any chest CT with lobes in the paper's order (LUL, LLL, RUL, RLL, RML: 1 to 5).", read_lobes)
DATASETS.add(
    "lobes_lola11",
    "Any chest CT with lobes labelled as in LOLA11.",
    partial(read_lobes, label_map="lola11", source="lobes_lola11"),
)
DATASETS.add(
    "lobes_luna16",
    "Scans of LUNA16 with the lobes of Tang et al., 2019.",
    partial(read_lobes, label_map="luna16", source="lobes_luna16", label_suffix="_LobeSegmentation"),
)
DATASETS.add(
    "lobes_copdgene",
    "Any chest CT with lobes labelled as in COPDGene (Chest Imaging Platform).",
    partial(read_lobes, label_map="copdgene", source="lobes_copdgene"),
)
DATASETS.add("montgomery", "Montgomery County (Jaeger et al., 2014): lungs in 138 chest X-rays.", read_montgomery)
DATASETS.add("shenzhen", "Shenzhen Hospital (Jaeger et al., 2014): lungs in 566 chest X-rays.", read_shenzhen)
DATASETS.add("jsrt", "JSRT with SCR (van Ginneken et al., 2006): lungs in 247 chest X-rays.", read_jsrt)
DATASETS.add("v7_darwin", "V7 Labs' COVID-19 set (2020): lungs with heart in 6395 chest X-rays.", read_v7_darwin)
DATASETS.add("lung_ct2d", "Finding and Measuring Lungs in CT Data (Mader, 2017): lungs in CT slices.", read_lung_ct2d)
for _fold in range(1, FOLDS + 1):
    DATASETS.add(
        f"lung_ct2d_fold{_fold}",
        f"Finding and Measuring Lungs in CT Data (Mader, 2017): fold {_fold} of {FOLDS}.",
        partial(read_lung_ct2d, fold=_fold),
    )
DATASETS.add("covid19_ct", "COVID-19 CT scans: lungs in 8-bit CT slices, for testing.", read_covid19_ct)
DATASETS.add("lctsc", "LCTSC (Yang et al., 2018): lungs in slices cut from chest CT.", read_lctsc)
DATASETS.add(
    "lctsc_volumes", "LCTSC (Yang et al., 2018): lungs in chest CT volumes.", partial(read_lctsc, slices=False)
)
DATASETS.add("lits", "LiTS (Bilic et al., 2023): liver with its tumours in 131 CT scans.", read_lits)
DATASETS.add(
    "lits_liver_only",
    "LiTS (Bilic et al., 2023): liver without its tumours in 131 CT scans.",
    partial(read_lits, tumour="background", source="lits_liver_only"),
)
DATASETS.add(
    "lits_tumour",
    "LiTS (Bilic et al., 2023): liver and tumours apart in 131 CT scans.",
    partial(read_lits, tumour="separate", source="lits_tumour"),
)
DATASETS.add("chaos_ct", "CHAOS (Kavur et al., 2021): liver in 20 CT scans.", read_chaos)
for _modality, _sequence in {
    "t1_in": "T1-DUAL in phase",
    "t1_out": "T1-DUAL out of phase",
    "t2": "T2-SPIR",
    "mr": "three sequences",
}.items():
    for _organ in CHAOS_ORGANS:
        DATASETS.add(
            f"chaos_{_modality}_{_organ}",
            f"CHAOS (Kavur et al., 2021): {_organ} in MRI of 20 patients, {_sequence}.",
            partial(read_chaos, modality=_modality, organ=_organ),
        )
for _organ in CURVAS_ORGANS:
    DATASETS.add(
        f"curvas_{_organ}",
        f"CURVAS (MICCAI 2024): {_organ} in 108 slices of abdominal CT.",
        partial(read_curvas, organ=_organ),
    )
DATASETS.add("isbi2012", "ISBI 2012 (Arganda-Carreras et al., 2015): cell contours in 30 EM sections.", read_isbi2012)
DATASETS.add("vnc_gerhard", "Gerhard et al., 2013: cell contours in 20 EM sections, to test on.", read_vnc_gerhard)
DATASETS.add(
    "duke_dme", "Duke's oedema set (Chiu et al., 2015): eight boundaries, two graders, 110 B-scans.", read_duke_dme
)
DATASETS.add(
    "healthy_spectralis",
    "Healthy maculae by Spectralis (siej88/OCTLayers): eight boundaries, 100 B-scans.",
    read_healthy_spectralis,
)
DATASETS.add("cirrus_onh", "Optic discs by Cirrus (OCTseg-Zeiss): three B-scans, for testing.", read_cirrus_onh)
DATASETS.add("nr206", "NR206 (He et al., 2023): eight layers in colours, 206 B-scans.", read_nr206)
DATASETS.add("oct_labels", "Any folder of B-scans with label pictures, classes in order of depth.", read_oct_labels)
DATASETS.add("oct_boundaries", "Any folder of B-scans with tables of boundaries.", read_oct_boundaries)
