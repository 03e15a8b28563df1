import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvol.placement import describe, select
from xvol.siting import Site


def site(stage: int, block: int, conv: int) -> Site:
    return Site(
        fqn=f"layer{stage}.{block}.conv{conv}",
        stage=stage,
        block=block,
        kernel=3,
        stride=1,
        padding=1,
        dilation=1,
        groups=1,
        in_chs=8,
        out_chs=8,
        norm_fqn=f"layer{stage}.{block}.bn{conv}",
        in_size=(8, 8),
        out_size=(8, 8),
        params=576,
        macs=36864,
    )


BASIC = [
    site(stage, block, conv)
    for stage, blocks in enumerate((2, 3, 1, 2), 1)
    for block in range(blocks)
    for conv in (1, 2)
]
BOTTLENECK = [site(stage, block, 2) for stage, blocks in enumerate((3, 4, 6, 3), 1) for block in range(blocks)]

TERMS = st.sampled_from(
    [
        "none",
        "all",
        "stage1",
        "stage2.*",
        "stage[2-4].last",
        "stage[2,4].first",
        "stage2.1",
        "every=2",
        "last_k=2",
        "stage2.every=2",
        "stage1.last_k=1",
        "layer3.0.conv2",
        "stage[1-2,4]",
    ]
)


def names(policy: str, all_sites: list[Site] = BASIC) -> list[str]:
    return [chosen.fqn for chosen in select(all_sites, policy)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("none", ""),
        ("plain", ""),
        ("stage3", "3.0"),
        ("stage3.*", "3.0"),
        ("stage[2-3].*", "2.0 2.1 2.2 3.0"),
        ("stage[2,4].last", "2.2 4.1"),
        ("stage[2-4].first", "2.0 3.0 4.0"),
        ("stage2.1", "2.1"),
        ("every=3", "1.0 2.1 4.0"),
        ("last_k=3", "3.0 4.0 4.1"),
        ("stage2.every=2", "2.0 2.2"),
        ("stage[1,2].last_k=2", "1.0 1.1 2.1 2.2"),
        ("stage4.last + stage1.first", "1.0 4.1"),
        ("stage1,stage1.0,none", "1.0 1.1"),
    ],
)
def test_policies(policy: str, expected: str) -> None:
    assert names(policy) == [f"layer{block}.conv{conv}" for block in expected.split() for conv in (1, 2)]


def test_single_sites_by_name() -> None:
    assert names("layer3.0.conv2") == ["layer3.0.conv2"]
    assert names("layer3.0.conv2, layer1.1.conv1") == ["layer1.1.conv1", "layer3.0.conv2"]
    assert names("all") == [one.fqn for one in BASIC]
    assert names("every=2", BOTTLENECK) == [one.fqn for one in BOTTLENECK[::2]]


@given(st.lists(TERMS, min_size=1, max_size=4), st.sampled_from(["+", ",", " + "]))
def test_a_union_is_ordered_and_has_no_doubles(terms: list[str], joint: str) -> None:
    together = names(joint.join(terms))
    parts = {name for term in terms for name in names(term)}
    assert together == [one.fqn for one in BASIC if one.fqn in parts]
    assert together == names(joint.join(reversed(terms))) == names(joint.join(terms * 2))


@given(st.lists(TERMS, min_size=1, max_size=3))
def test_selecting_from_what_was_selected_changes_nothing(terms: list[str]) -> None:
    chosen = select(BASIC, "+".join(terms))
    assert select(chosen, "all" if chosen else "none") == chosen


@given(st.sets(st.sampled_from([one.fqn for one in BASIC])), st.randoms())
def test_a_description_selects_its_set_again_and_is_the_only_one(chosen: set[str], random: object) -> None:
    label = describe(BASIC, chosen)
    assert set(names(label)) == chosen
    shuffled = sorted(chosen, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert describe(BASIC, shuffled) == label == describe(BASIC, select(BASIC, label))


@pytest.mark.parametrize(
    ("policy", "label"),
    [
        ("none", "plain"),
        ("stage[1-4]", "all"),
        ("stage4+stage2", "stage2+stage4"),
        ("stage3.0", "stage3"),
        ("stage2.last+stage3", "stage2.2+stage3"),
        ("layer3.0.conv2", "layer3.0.conv2"),
        ("layer2.0.conv1+layer2.0.conv2+layer2.1.conv2", "stage2.0+layer2.1.conv2"),
    ],
)
def test_descriptions(policy: str, label: str) -> None:
    assert describe(BASIC, select(BASIC, policy)) == label


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("stage5", "stage5 has no sites; there are stage1, stage2, stage3, stage4"),
        ("stage[4-6].last", "selects nothing, for stage5 has no sites"),
        ("stage3.7", "stage3 has no sites in block 7; its blocks are 0"),
        ("layer3.0.conv3", "neither a site.*did you mean 'layer3.0.conv"),
        ("stag3", "did you mean 'stage"),
        ("al", "did you mean 'all'"),
        ("stage2.lst", "does not pick blocks of stage2; did you mean '.*last"),
        ("stage[2", "not understood; a policy is"),
        ("stage[3-2]", "must list stages"),
        ("stage[]", "must list stages"),
        ("every=0", "every=0 selects nothing"),
        ("last_k=99", "last_k=99, but the model has 8 blocks"),
        ("stage3.last_k=2", "last_k=2, but stage3 has 1 blocks"),
        ("every=", "not understood"),
        ("", "has an empty part"),
        ("stage2++stage3", "has an empty part"),
    ],
)
def test_refuses(policy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(BASIC, policy)


def test_no_sites_to_choose_from() -> None:
    assert select([], "none") == []
    with pytest.raises(ValueError, match="the model has no sites"):
        select([], "all")
    with pytest.raises(ValueError, match=r"'layer9.0.conv1' is no site of this model: did you mean"):
        describe(BASIC, ["layer9.0.conv1"])


@given(st.text(alphabet="stage[]0123456789.,-+*=every_lastk ", max_size=20))
def test_any_text_is_understood_or_refused(policy: str) -> None:
    try:
        chosen = select(BASIC, policy)
    except ValueError as error:
        message = str(error)
    else:
        message = describe(BASIC, chosen) and "placement"
    assert message.startswith("placement")
