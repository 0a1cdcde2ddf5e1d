"""Networks and their registry.

``NETWORKS`` maps a network's short name to its class; it drives the parametrised tests, the benchmarks and the command
line. A new network is one module in :mod:`medseg_monai.networks.nets` and one line here.

Example:
    >>> from medseg_monai.networks import NETWORKS
    >>> sorted(NETWORKS.names)
    ['anunet', 'cenet', 'ctsunet', 'defunet', 'rescrnet']
    >>> network = NETWORKS["anunet"](spatial_dims=2, in_channels=1, out_channels=1)
"""

from monai.utils import ComponentStore

from .nets import ANUNet, CENet, CTSUNet, DEFUNet, ResCRNet

__all__ = ["NETWORKS"]

NETWORKS = ComponentStore("Networks", "Published segmentation networks by their short name.")
NETWORKS.add("cenet", "CE-Net (Gu et al., IEEE TMI 2019): 2D, any modality.", CENet)
NETWORKS.add("ctsunet", "CTSU-Net (Xie et al., 2020): 3D, lobes of the lung in CT.", CTSUNet)
NETWORKS.add("defunet", "DEFU-Net (Zhang et al., ICPR 2020): 2D, lungs in chest X-rays.", DEFUNet)
NETWORKS.add("rescrnet", "Res-CR-Net (Abdulah et al., 2020): 2D, lungs in chest X-rays.", ResCRNet)
NETWORKS.add("anunet", "ANU-Net (Li et al., 2020): 2D, organs in abdominal CT and MRI.", ANUNet)
