"""What can be summed in a block, by name: each branch with its module and class, which are imported when it is wanted.

`xvol.registry` looks names up. A branch of an own package is no part of this table: `register_branch` enters it.
"""

BRANCHES = {
    "acmix": "xvol.branches.acmix:ACmix",
    "bottleneck_attn": "xvol.branches.timm_layers:Bottleneck",
    "conv": "xvol.branches.conv:Conv",
    "dbb": "xvol.branches.rivals:DiverseBranch",
    "gap_query": "xvol.branches.pssa:GAPQuery",
    "halo": "xvol.branches.timm_layers:Halo",
    "identity": "xvol.branches.conv:Identity",
    "involution": "xvol.branches.rivals:Involution",
    "lambda_layer": "xvol.branches.timm_layers:Lambda",
    "linear_global": "xvol.branches.inner:LinearGlobal",
    "pool": "xvol.branches.conv:Pool",
    "pssa": "xvol.branches.pssa:PSSA",
    "pssa_dense": "xvol.branches.pssa:PSSADense",
    "pssa_inner": "xvol.branches.inner:PSSAInner",
    "second_conv": "xvol.branches.conv:SecondConv",
    "softmax_global": "xvol.branches.inner:SoftmaxGlobal",
}
