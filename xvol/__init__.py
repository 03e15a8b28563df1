"""X-volution: convolution and self-attention summed in one block, placed anywhere in a timm model.

List the sites of a model, choose some by a policy, swap them, train, and fuse:

    >>> import xvol, timm
    >>> model = timm.create_model("resnet18")
    >>> chosen = xvol.select(xvol.sites(model), "stage3.*")
    >>> model = xvol.convert(model, {site.fqn: xvol.BlockSpec() for site in chosen})
    >>> deployed = xvol.fuse(model)

Import xvol before timm where torch is a CPU build: see `xvol/torchvision_ops.py`.
"""

from xvol.torchvision_ops import mend as _mend

_mend()  # before anything imports timm

import xvol.branches.acmix  # noqa: E402  # importing a branch registers it
import xvol.branches.controls  # noqa: E402
import xvol.branches.conv  # noqa: E402
import xvol.branches.dbb  # noqa: E402
import xvol.branches.gap_query  # noqa: E402
import xvol.branches.global_attention  # noqa: E402
import xvol.branches.inner  # noqa: E402
import xvol.branches.involution  # noqa: E402
import xvol.branches.pssa  # noqa: E402
import xvol.branches.pssa_dense  # noqa: E402
import xvol.branches.timm_attention  # noqa: E402
import xvol.models  # noqa: E402, F401
from xvol.block import XVolution2d  # noqa: E402
from xvol.cost import count_macs, count_params  # noqa: E402
from xvol.dose import doses, geometric_mean  # noqa: E402
from xvol.fuse import FuseReport, fuse, fuse_error, fuse_report  # noqa: E402
from xvol.placement import describe, select  # noqa: E402
from xvol.registry import branch_class, branch_names, branch_options, register_branch  # noqa: E402
from xvol.sites import Refusal, Site, refused, sites  # noqa: E402
from xvol.spec import BlockSpec  # noqa: E402
from xvol.state import load_state_dict  # noqa: E402
from xvol.surgery import convert  # noqa: E402

__all__ = [
    "BlockSpec",
    "FuseReport",
    "Refusal",
    "Site",
    "XVolution2d",
    "branch_class",
    "branch_names",
    "branch_options",
    "convert",
    "count_macs",
    "count_params",
    "describe",
    "doses",
    "fuse",
    "fuse_error",
    "fuse_report",
    "geometric_mean",
    "load_state_dict",
    "refused",
    "register_branch",
    "select",
    "sites",
]
