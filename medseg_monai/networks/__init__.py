"""Networks and their registry.

``NETWORKS`` maps a network's short name, its class's in small letters, to its class; it drives the parametrised tests,
the benchmarks and the command line. A new network is one module in :mod:`medseg_monai.networks.nets`, exported there.

Example:
    >>> from medseg_monai.networks import NETWORKS
    >>> sorted(NETWORKS.names)
    ['anunet', 'cenet', 'ctsunet', 'defunet', 'rescrnet']
    >>> network = NETWORKS["anunet"](spatial_dims=2, in_channels=1, out_channels=1)
"""

from monai.utils import ComponentStore

from . import nets

__all__ = ["NETWORKS"]

NETWORKS = ComponentStore("Networks", "Published segmentation networks by their short name.")
for _name in nets.__all__:
    _class = getattr(nets, _name)
    NETWORKS.add(_name.lower(), _class.__doc__.partition("\n")[0], _class)
