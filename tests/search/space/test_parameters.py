from __future__ import annotations

from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import create_study

from search.space import parameters as parameters_module
from search.space.parameters import Parameter, Space, parse_space

PARSER = OverridesParser.create()
SPECIAL = [
    "",
    "1",
    "1.5",
    "1e3",
    "inf",
    "nan",
    "true",
    "No",
    "null",
    "a,b",
    "a b",
    " a ",
    "[1,2]",
    "{a:1}",
    "a=b",
    "a:b",
]
SPECIAL += [
    "it's",
    'say "hi"',
    "'",
    '"',
    "\\",
    "\\'",
    "a\\",
    "stage[2-4].last",
    "choice(a,b)",
    "é漢😀",
    "conv+pssa",
    "-1",
    "#",
]
STRINGS = st.sampled_from(SPECIAL) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
VALUES = STRINGS | st.integers() | st.booleans() | st.floats(allow_nan=False)


def only(*arguments: str, **params: Any) -> Parameter:
    space = parse_space(arguments, params)
    (parameter,) = space.parameters
    assert space.fixed == ()
    return parameter


def read(override: str) -> tuple[str, Any]:
    """Key and value as Hydra understands an override; it must not be a sweep."""
    parsed = PARSER.parse_override(override)
    assert not parsed.is_sweep_override()
    return parsed.get_key_element(), parsed.value()


def same(left: Any, right: Any) -> bool:
    return left == right and type(left) is type(right)


def written(value: Any, quote: Quote) -> str:
    return QuotedString(value, quote).with_quotes() if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(none, stage3)", CategoricalDistribution(("none", "stage3"))),
        ("none,stage3", CategoricalDistribution(("none", "stage3"))),
        ("choice('a,b', \"c d\")", CategoricalDistribution(("a,b", "c d"))),
        ("choice(true, false)", CategoricalDistribution((True, False))),
        ("choice(1, 1.0, '1', true)", CategoricalDistribution((1, 1.0, "1", True))),
        ("choice(a, a, 'a')", CategoricalDistribution(("a",))),
        ("null,0.9", CategoricalDistribution((None, 0.9))),
        ("choice([1,2],[3])", CategoricalDistribution(("[1,2]", "[3]"))),
        ("int(choice(1.5, 2.5))", CategoricalDistribution((1, 2))),
        ("bool(choice(0, 1))", CategoricalDistribution((False, True))),
        ("sort(choice(3, 1, 2))", CategoricalDistribution((1, 2, 3))),
        ("sort(3, 1, 2, reverse=true)", CategoricalDistribution((3, 2, 1))),
        ("range(0, 4)", IntDistribution(0, 3)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(1, 8, 3)", IntDistribution(1, 7, step=3)),
        ("range(1, 9, 3)", IntDistribution(1, 7, step=3)),
        ("range(5, 0, -2)", IntDistribution(1, 5, step=2)),
        ("sort(range(0, 6, 2), reverse=true)", IntDistribution(0, 4, step=2)),
        ("tag(log, range(1, 100))", IntDistribution(1, 99, log=True)),
        ("range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("float(range(0, 4))", FloatDistribution(0.0, 3.0, step=1.0)),
        ("range(0, 0.35, 0.05)", FloatDistribution(0.0, 0.3, step=0.05)),
        ("range(1, 3, 0.2)", FloatDistribution(1.0, 2.8, step=0.2)),
        ("range(1, 0, -0.1)", FloatDistribution(0.1, 1.0, step=0.1)),
        ("range(0, 2.1, 0.7)", FloatDistribution(0.0, 1.4, step=0.7)),
        ("interval(0, 1)", FloatDistribution(0.0, 1.0)),
        ("tag(log, interval(1e-3, 1))", FloatDistribution(1e-3, 1.0, log=True)),
        ("int(interval(1, 8))", IntDistribution(1, 8)),
        ("int(tag(log, interval(1, 8)))", IntDistribution(1, 8, log=True)),
        ("tag(log, int(interval(1, 8)))", IntDistribution(1, 8, log=True)),
    ],
)
def test_the_grammar_as_distributions(text: str, expected: BaseDistribution) -> None:
    parameter = only(f"train.lr={text}")
    assert parameter.distribution == expected
    assert parameter.name == "train.lr"
    if isinstance(expected, CategoricalDistribution) and isinstance(parameter.distribution, CategoricalDistribution):
        assert [type(v) for v in parameter.distribution.choices] == [type(v) for v in expected.choices]
    assert only(**{"train.lr": text}) == parameter


@pytest.mark.parametrize("text", ["shuffle(choice(c, a, b))", "shuffle(c, a, b)", "shuffle(range(0, 5))"])
def test_shuffle_is_the_same_in_every_process(text: str) -> None:
    levels = only(f"x={text}").levels()
    assert levels == (["c", "a", "b"] if "c" in text.replace("choice", "") else [0, 1, 2, 3, 4])
    assert all(only(f"x={text}").levels() == levels for _ in range(20))


@given(st.lists(VALUES, min_size=2, max_size=5), st.sampled_from(list(Quote)), st.booleans())
def test_every_choice_is_written_as_hydra_reads_it(values: list[Any], quote: Quote, as_function: bool) -> None:
    items = [written(value, quote) for value in values]
    for value, item in zip(values, items, strict=True):
        try:
            assume(same(read(f"x={item}")[1], value))  # what Hydra cannot be told is not asked for
        except HydraException:
            assume(False)
    text = f"choice({','.join(items)})" if as_function else ",".join(items)
    parameter = only(f"x={text}")
    assert isinstance(parameter.distribution, CategoricalDistribution)
    choices = parameter.distribution.choices
    assert {(type(v), v) for v in choices} == {(type(v), v) for v in values}
    for choice in choices:
        key, value = read(Space((parameter,), ()).overrides({"x": choice})[0])
        assert key == "x"
        assert same(value, choice)


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(1e-6, 1e6))
def test_sampled_numbers_are_written_as_hydra_reads_them(low: float, width: float) -> None:
    parameter = only(f"x=interval({low!r},{low + width!r})")
    study = create_study(sampler=RandomSampler(seed=0))
    for _ in range(3):
        value = study.ask({"x": parameter.distribution}).params["x"]
        assert same(read(parameter.override(value))[1], value)


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 20), st.booleans())
def test_a_range_excludes_its_end_and_holds_what_it_says(low: int, width: int, step: int, downwards: bool) -> None:
    count = -(-width // step)
    wanted = [(low + step * i) / 100 for i in range(count)]
    if downwards:
        wanted = sorted((low + width - step * i) / 100 for i in range(count))
        text = f"range({(low + width) / 100:.2f},{low / 100:.2f},{-step / 100:.2f})"
    else:
        text = f"range({low / 100:.2f},{(low + width) / 100:.2f},{step / 100:.2f})"
    levels = only(f"x={text}").levels()
    assert levels == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_the_plus_of_a_key_is_written_but_no_part_of_the_name(plus: str) -> None:
    parameter = only(f"{plus}backbone.kwargs.drop_path_rate=0.0,0.1")
    assert parameter.name == "backbone.kwargs.drop_path_rate"
    assert parameter.override(0.1) == f"{plus}backbone.kwargs.drop_path_rate=0.1"


def test_the_command_line_goes_before_the_config() -> None:
    params = {"placement.policy": "choice(none, all)", "train.lr": "interval(0.1, 0.5)", "seed": 3}
    space = parse_space(["placement.policy=stage3,stage4", "train.lr=0.2"], params)
    assert [p.name for p in space.parameters] == ["placement.policy"]
    assert space.grid() == [{"placement.policy": "stage3"}, {"placement.policy": "stage4"}]
    assert sorted(space.fixed) == ["seed=3", "train.lr=0.2"]
    assert parse_space(["+x=1"], {"x": "choice(1, 2)"}).parameters == ()


def test_overrides_carry_what_is_fixed_and_what_was_sampled() -> None:
    space = parse_space(["data=digits", "placement=stage3,stage4", "train.lr=interval(0, 1)", "~tracker.entity"], {})
    assert space.overrides({"placement": "stage4", "train.lr": 0.25}) == [
        "data=digits",
        "~tracker.entity",
        "placement=stage4",
        "train.lr=0.25",
    ]


def test_lists_in_the_config_are_choices() -> None:
    assert only(x=["none", "stage3"]).levels() == ["none", "stage3"]
    assert only(x=[True, 2, 0.5]).levels() == [True, 2, 0.5]
    assert only(x=[None, 0.9]).levels() == [None, 0.9]
    assert only(x=["a,b", "it's", "c d"]).levels() == ["a,b", "it's", "c d"]


@pytest.mark.parametrize("value", [{"low": 0, "high": 1}, []])
def test_what_is_no_text_in_the_grammar_is_refused_in_the_config(value: Any) -> None:
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.params"):
        parse_space([], {"x": value})


def test_config_groups_are_searched_by_their_options(composed: Any) -> None:
    space = parse_space(["placement=stage3,stage4"], {}, GlobalHydra.instance().config_loader())
    assert space.grid() == [{"placement": "stage3"}, {"placement": "stage4"}]
    assert composed(*space.overrides({"placement": "stage4"})).placement.policy == "stage4"


def test_a_grid_is_nested_loops_over_the_levels() -> None:
    space = parse_space(["a=choice(x,y)", "b=range(0,2)", "c=range(0,0.3,0.1)"], {})
    points = [(a, b, c) for a in ("x", "y") for b in (0, 1) for c in (0.0, 0.1, 0.2)]
    assert [tuple(point.values()) for point in space.grid()] == points


def test_an_empty_space_has_one_point() -> None:
    assert parse_space([], {}).grid() == [{}]
    assert parse_space(["seed=1"], {}).overrides({}) == ["seed=1"]


@pytest.mark.parametrize("text", ["interval(0,1)", "tag(log,interval(0.1,1))", "tag(log,range(1,9))"])
def test_a_grid_needs_levels_that_can_be_counted(text: str) -> None:
    with pytest.raises(ValueError, match=r"sampler grid: x .*choice"):
        parse_space([f"x={text}"], {}).grid()


def test_a_grid_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters_module, "MAX_GRID", 5)
    with pytest.raises(ValueError, match="more than 5 points"):
        parse_space(["a=range(0,3)", "b=range(0,2)"], {}).grid()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=choice(", "cannot read the search space"),
        ("train.lr", "cannot read the search space"),
        ("train.lr=choice()", "empty choice"),
        ("train.lr=range(3,3)", "the range is empty"),
        ("train.lr=range(3,1)", "the range is empty"),
        ("train.lr=interval(2,1)", "lower end first"),
        ("train.lr=tag(log,interval(0,1))", "begins above 0"),
        ("train.lr=tag(log,int(interval(0,8)))", "begins above 0"),
        ("train.lr=tag(log,range(1,9,2))", "step 1"),
        ("train.lr=tag(log,range(0.1,1,0.1))", "no step"),
        ("train.lr=tag(log,range(0,9))", "above 0"),
        ("train.lr=tag(log,choice(1,2))", "not with choice"),
        ("train.lr=glob(*)", "write the names out"),
        ("train.lr=interval(0,nan)", "lower end first"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_text(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_space([override], {})
    assert "train.lr" in str(caught.value)  # among many overrides, the one that is meant


def test_infinite_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match="x=interval"):
        parse_space(["x=interval(0,inf)"], {})
