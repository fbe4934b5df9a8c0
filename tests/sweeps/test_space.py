"""The space of a sweep: what can be written, what it holds, what is refused."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from astroclip_train.errors import ConfigError
from astroclip_train.sweeps.space import dimensions_of, from_override, grid, names, random_point


def swept(*texts):
    return [OverridesParser.create().parse_override(t) for t in texts]


def test_the_command_line_and_a_file_say_the_same():
    line = dimensions_of({}, swept("a.lr=tag(log,interval(1e-4,1e-2))", "b=1,2,3", "c=int(interval(1,8))"))
    file = dimensions_of(
        {"a.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "b": [1, 2, 3], "c": {"low": 1, "high": 8}}, []
    )
    assert [d.describe() for d in line] == [d.describe() for d in file]
    assert [d.distribution() for d in line] == [d.distribution() for d in file]
    assert dimensions_of({"b": [1, 2]}, swept("b=7,8"))[0].choices == (7, 8)  # the command line wins


def test_values_are_written_as_hydra_reads_them():
    lists = from_override(*swept("a=[1,2],[3]"))
    assert [lists.override(v) for v in lists.choices] == ["a=[1,2]", "a=[3]"]
    words = from_override(*swept("+vars.x='two words',plain,null,true,1"))
    assert [words.override(v) for v in words.choices] == [
        "+vars.x='two words'", "+vars.x=plain", "+vars.x=null", "+vars.x=true", "+vars.x=1",
    ]  # fmt: skip
    rate = from_override(*swept("lr=interval(0,1)"))
    value = random_point([rate], 0, 3)["lr"]
    assert OverridesParser.create().parse_override(rate.override(value)).value() == value


def test_grid_has_the_last_key_fastest_and_steps():
    space = dimensions_of({"a": [1, 2], "b": {"low": 0.0, "high": 0.5, "step": 0.25}}, [])
    assert [tuple(p.values()) for p in grid(space)] == [
        (1, 0.0), (1, 0.25), (1, 0.5), (2, 0.0), (2, 0.25), (2, 0.5),
    ]  # fmt: skip


def test_random_points_depend_on_seed_and_number_alone_and_cover_their_range():
    space = dimensions_of(
        {"x": {"low": 1e-4, "high": 1e-1, "log": True}, "n": {"low": 1, "high": 4}, "c": ["p", "q"],
         "s": {"low": 0.0, "high": 1.0, "step": 0.5}}, [],
    )  # fmt: skip
    points = [random_point(space, 5, i) for i in range(200)]
    assert points[7] == random_point(space, 5, 7) != random_point(space, 6, 7)
    assert {p["n"] for p in points} == {1, 2, 3, 4}
    assert {p["c"] for p in points} == {"p", "q"}
    assert {p["s"] for p in points} == {0.0, 0.5, 1.0}
    below = sum(p["x"] < 10**-2.5 for p in points)
    assert 70 < below < 130
    assert all(1e-4 <= p["x"] <= 1e-1 for p in points)
    assert all(
        d.distribution()._contains(d.distribution().to_internal_repr(p[d.name]))
        for p in points
        for d in space
    )


def test_names_are_as_short_as_they_can_be():
    assert names(["stages.a.lr", "stages.b.lr", "variant"]) == {
        "stages.a.lr": "a.lr", "stages.b.lr": "b.lr", "variant": "variant",
    }  # fmt: skip
    assert names(["lr", "a.lr"]) == {"lr": "lr", "a.lr": "a.lr"}


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({}, "the sweep varies nothing"),
        ({"a": []}, "sweep.space.a is empty"),
        ({"a": 3}, "sweep.space.a=3 must be a list"),
        ({"a": [1, 1]}, "has 1 twice"),
        ({"a": {"low": 1}}, "needs low and high"),
        ({"a": {"low": 1, "high": 1}}, "low=1 must lie below high=1"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "cannot be logarithmic"),
        ({"a": {"low": 1, "high": 9, "log": True, "step": 2}}, "has log and step"),
        ({"a": {"low": 1, "high": 9, "lgo": True}}, "has lgo, which is not one of low, high, log, step, int"),
        ({"a": {"low": "x", "high": 9}}, "not a number"),
        ({"a": {"low": 0.5, "high": 9, "int": True}}, "is not whole"),
    ],
)
def test_what_is_refused(space, told):
    with pytest.raises(ConfigError) as caught:
        dimensions_of(space, [])
    assert told in str(caught.value)


def test_an_interval_has_no_grid():
    with pytest.raises(ConfigError, match="which has no grid: give a list or a step"):
        grid(dimensions_of({"a": {"low": 0.1, "high": 1}}, []))
