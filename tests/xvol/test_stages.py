import timm
import torch
from torch import nn

from xvol.stages import find_stages, place_of


def roots(model: nn.Module) -> list[tuple[str, ...]]:
    return [stage.roots for stage in find_stages(model)]


def of(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def test_what_feature_info_names_with_its_elder_siblings() -> None:
    assert roots(of("resnet18")) == [("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    assert roots(of("mobilenetv2_035"))[3:] == [("blocks.3", "blocks.4"), ("blocks.5", "blocks.6")]
    assert roots(of("rexnet_100"))[0] == ("features.0",), "the stem, beside the sequence, is none"
    assert roots(of("inception_v3"))[0] == ("Mixed_5b", "Mixed_5c", "Mixed_5d")


def test_stems_that_are_blocks_and_stages_that_are_not_named() -> None:
    assert roots(of("repvgg_a0")) == [(f"stages.{index}",) for index in range(4)], (
        "final_conv is named, stages.3 is not"
    )
    assert roots(of("tresnet_m")) == [(f"body.layer{index}",) for index in range(1, 5)]


def test_a_stage_whose_name_the_model_does_not_have() -> None:
    assert roots(of("hrnet_w18_small")) == [
        ("layer1",),
        ("transition1", "stage2"),
        ("transition2", "stage3"),
        ("transition3", "stage4"),
    ], "feature_info names a stage1 that is no module; the others keep the numbers of their names"


def test_a_flat_sequence_of_layers() -> None:
    assert [len(stage.blocks) for stage in find_stages(of("vgg11_bn"))] == [1, 1, 2, 2, 2]


def test_places_count_blocks_through_a_stage() -> None:
    model = of("mobilenetv2_035")
    order = {fqn: position for position, (fqn, _) in enumerate(model.named_modules())}
    stages = find_stages(model)
    assert place_of("blocks.3.0.conv_dw", stages, order) == (4, 0)
    assert place_of("blocks.4.0.conv_dw", stages, order) == (4, 4)
    assert place_of("conv_stem", stages, order) is None


def test_what_stands_before_the_first_block_counts_with_it() -> None:
    model = of("cspresnet50")
    order = {fqn: position for position, (fqn, _) in enumerate(model.named_modules())}
    stages = find_stages(model)
    assert place_of("stages.1.conv_down.conv", stages, order) == (2, 0)
    assert place_of("stages.1.blocks.0.conv2.conv", stages, order) == (2, 0)
    assert place_of("stages.1.blocks.2.conv2.conv", stages, order) == (2, 2)


class Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))


def test_without_feature_info() -> None:
    flat = nn.Sequential()
    flat.add_module("stem", nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    flat.add_module("one", nn.Sequential(Block(), Block()))
    flat.add_module("two", nn.Sequential(Block()))
    assert roots(flat) == [("one",), ("two",)]
    nested = nn.Sequential()
    nested.add_module("stages", nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block())))
    assert roots(nested) == [("stages.0",), ("stages.1",)]
