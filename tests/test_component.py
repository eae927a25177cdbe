"""Slots that hold a name or a part, on a small estimator that has nothing to do with flows."""

import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.tree import DecisionTreeRegressor

from siflow_sk._component import Component, SlotsMixin, resolve


class Round(Component):
    def __init__(self, radius=1.0):
        self.radius = radius

    def area(self):
        return 3.0 * self.radius**2


class Square(Component):
    def __init__(self, side=2.0, tilt=None):
        self.side = side
        self.tilt = tilt

    def area(self):
        return self.side**2


class Nothing(Component):
    def area(self):
        return 0.0


SHAPES = {"round": Round, "square": Square, "none": Nothing}


class Drawing(SlotsMixin, BaseEstimator):
    _slots = {"front": SHAPES, "back": SHAPES}

    def __init__(self, front="round", back=None, colour="red"):
        self.front = front
        self.back = back
        self.colour = colour


def test_names_and_none_become_fresh_parts():
    part = resolve("front", "square", SHAPES, ("area",))
    assert (type(part), part.side) == (Square, 2.0)
    assert resolve("front", "square", SHAPES) is not part
    assert type(resolve("front", None, SHAPES)) is Nothing


def test_a_part_is_copied():
    mine = Square(side=5.0)
    part = resolve("front", mine, SHAPES, ("area",))
    assert part is not mine
    assert part.side == 5.0
    mine.side = 7.0
    assert part.side == 5.0


def test_an_object_from_elsewhere_is_copied():
    class Blob:
        def __init__(self):
            self.size = [1.0]

        def area(self):
            return self.size[0]

    blob = Blob()
    part = resolve("front", blob, SHAPES, ("area",))
    part.size[0] = 9.0
    assert blob.area() == 1.0


def test_messages():
    wanted = {
        "circle": "front='circle' is not one of ['none', 'round', 'square']; "
        "pass one of these names or an instance.",
        Round: "front=Round is a class; pass an instance: Round().",
        3: "front=3 lacks area; pass one of ['none', 'round', 'square'] or an object with the methods area.",
    }
    for value, message in wanted.items():
        with pytest.raises(ValueError, match=r"^front=") as caught:
            resolve("front", value, SHAPES, ("area",))
        assert str(caught.value) == message
    with pytest.raises(ValueError, match=r"lacks area, volume; .* the methods area, volume\.$"):
        resolve("front", 3, SHAPES, ("area", "volume"))


def test_parameters_inside_of_names_are_listed():
    assert Drawing(back="square").get_params() == {
        "front": "round",
        "front__radius": 1.0,
        "back": "square",
        "back__side": 2.0,
        "back__tilt": None,
        "colour": "red",
    }
    assert Drawing().get_params(deep=False) == {"front": "round", "back": None, "colour": "red"}
    assert "front__radius" not in Drawing(front="circle").get_params()  # an unknown name is found by fit


def test_touching_the_inside_of_a_name_turns_it_into_the_part():
    drawing = Drawing().set_params(front__radius=4.0)
    assert type(drawing.front) is Round
    assert drawing.front.radius == 4.0
    assert drawing.back is None


def test_swap_then_tune_in_any_order():
    for parameters in ({"front": "square", "front__side": 3.0}, {"front__side": 3.0, "front": "square"}):
        drawing = Drawing().set_params(**parameters)
        assert type(drawing.front) is Square
        assert drawing.front.side == 3.0
    assert type(Drawing().set_params(front=Round(2.0), front__radius=6.0).front) is Round


def test_parts_in_parts_are_reached():
    drawing = Drawing(front=Square(tilt=DecisionTreeRegressor()))
    drawing.set_params(front__tilt__max_depth=3)
    assert drawing.front.tilt.max_depth == 3
    assert drawing.get_params()["front__tilt__max_depth"] == 3


def test_no_state_is_shared():
    first, second = Drawing(), Drawing()
    first.set_params(front__radius=9.0)
    assert second.get_params()["front__radius"] == 1.0
    copy = clone(first)
    copy.set_params(front__radius=2.0)
    assert first.front.radius == 9.0


def test_clone_keeps_names():
    assert clone(Drawing(front="square", back=None)).get_params() == Drawing("square", None).get_params()
    assert clone(Drawing()).front == "round"


def test_a_typo_fails_where_it_is_made():
    with pytest.raises(ValueError, match=r"^Invalid parameter 'radus' for estimator Round\(\)"):
        Drawing().set_params(front__radus=1.0)
    with pytest.raises(ValueError, match=r"^front='circle' is not one of"):
        Drawing(front="circle").set_params(front__radius=1.0)
    with pytest.raises(ValueError, match=r"^Invalid parameter 'middle' for estimator Drawing"):
        Drawing().set_params(middle__radius=1.0)
