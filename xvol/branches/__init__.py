"""What can be summed in a block, by name: each branch with its module and class, which are imported when it is wanted.

`xvol.registry` looks names up. A branch of an own package is no part of this table: `register_branch` enters it.
"""

BRANCHES = {
    "acmix": "xvol.branches.acmix:ACmix",
    "bottleneck_attn": "xvol.branches.bottleneck_attn:Bottleneck",
    "conv": "xvol.branches.conv:Conv",
    "dbb": "xvol.branches.dbb:DiverseBranch",
    "gap_query": "xvol.branches.gap_query:GAPQuery",
    "halo": "xvol.branches.halo:Halo",
    "identity": "xvol.branches.controls:Identity",
    "involution": "xvol.branches.involution:Involution",
    "lambda_layer": "xvol.branches.lambda_layer:Lambda",
    "linear_global": "xvol.branches.global_attention:LinearGlobal",
    "pool": "xvol.branches.controls:Pool",
    "pssa": "xvol.branches.pssa:PSSA",
    "pssa_dense": "xvol.branches.pssa_dense:PSSADense",
    "pssa_inner": "xvol.branches.inner:PSSAInner",
    "second_conv": "xvol.branches.controls:SecondConv",
    "softmax_global": "xvol.branches.global_attention:SoftmaxGlobal",
}
