"""Parts of the MONAI Label app.

:mod:`~medseg_monai.apps.label.lib.served` and :mod:`~medseg_monai.apps.label.lib.versions` need nothing but this
package; the other modules import MONAI Label. At its start it imports pydicom-seg, which looks for a module that
pydicom 3 has renamed; so this package, which comes before all of them, names it. That of pydicom 2 is left alone.
"""

import importlib.util
import sys

import pydicom.uid

_RENAMED = "pydicom._storage_sopclass_uids"

if _RENAMED not in sys.modules and importlib.util.find_spec(_RENAMED) is None:
    sys.modules[_RENAMED] = pydicom.uid
