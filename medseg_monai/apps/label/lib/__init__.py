"""Parts of the MONAI Label app.

:mod:`~medseg_monai.apps.label.lib.served` and :mod:`~medseg_monai.apps.label.lib.versions` need nothing but this
package; the other modules import MONAI Label. MONAI Label imports pydicom-seg when it starts, which looks for a module
that pydicom 3 has renamed. This package is imported before all of them, so it provides the old name. The module of
pydicom 2 is left alone.
"""

import importlib.util
import sys

import pydicom.uid

_RENAMED = "pydicom._storage_sopclass_uids"

if _RENAMED not in sys.modules and importlib.util.find_spec(_RENAMED) is None:
    sys.modules[_RENAMED] = pydicom.uid
