"""What label values stand for: the rules of `data.label_map` and `data.ignore`, and the guesses."""

from typing import Any

import pytest

from engine.cli import load_config, to_toml
from engine.labels import likely_table
from engine.mistakes import ConfigError

CLASSES = ("wall", "floor")


def data_of(**data: Any) -> Any:
    return load_config([], {"data": {"classes": [*CLASSES], **data}}).data


def test_a_map_has_one_form_however_it_was_typed() -> None:
    plain = {"0": "ignore", "3": 1, "40": 0}
    for given in (
        plain,
        {"40": "wall", "3": "floor", "0": "ignore"},
        {"40": "0", "0": 255, "3": "1"},
    ):
        found = data_of(label_map=given).label_map
        assert list(found.items()) == list(plain.items())


def test_a_map_comes_back_from_the_file_that_a_run_keeps(tmp_path: Any) -> None:
    data: dict[str, Any] = {"label_map": {"9": "wall", "0": 1}, "ignore": [7, 3]}
    config = load_config([], {"data": {"classes": [*CLASSES], **data}})
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config([tmp_path / "config.toml"]) == config
    assert config.data.ignore == (3, 7)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"label_map": {"0": "wal", "1": 1}}, "class 'wal', which data.classes lacks; did you"),
        ({"label_map": {"0": 0, "1": 2}}, "gives the value 1 the class 2; data.classes has 0..1"),
        ({"label_map": {"0": 0, "1": -1}}, "gives the value 1 the class -1"),
        ({"label_map": {"0": 0, "x": 1}}, "has the key 'x'; keys are the values"),
        ({"label_map": {"0": 0, "65536": 1}}, "has the key '65536'"),
        ({"label_map": {"1": 0, "01": 1}}, "gives the value 1 twice"),
        ({"label_map": {"0": 0}}, "has no value for the class 'floor'; add one"),
        ({"label_map": {"0": 0, "1": 1}, "ignore": [1]}, "both name the value 1"),
        ({"label_map": {"0": 0, "255": 1}, "ignore": [255]}, "both name the value 255"),
        ({"ignore": [5, 5]}, "data.ignore names a value twice"),
        ({"ignore": [0]}, "data.ignore names 0, the one value of the class 'wall'"),
        ({"ignore": [65536]}, "data.ignore.0 = 65536"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(data: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        data_of(**data)
    assert part in str(caught.value)
    assert str(caught.value).startswith("command line: ")


@pytest.mark.parametrize(
    ("values", "classes", "typed"),
    [
        ({0, 255}, 2, 'data.label_map = {"0" = 0, "255" = 1}'),
        ({0, 128}, 2, 'data.label_map = {"0" = 0, "128" = 1}'),
        ({1, 2, 3, 4}, 4, 'data.label_map = {"1" = 0, "2" = 1, "3" = 2, "4" = 3}'),
        ({1, 2, 4}, 4, 'data.label_map = {"1" = 0, "2" = 1, "3" = 2, "4" = 3}'),
        ({0, 1, 2}, 2, 'data.label_map = {"0" = "ignore", "1" = 0, "2" = 1} if 0 is unlabelled'),
        ({0, 1, 3}, 3, 'data.label_map = {"0" = "ignore", "1" = 0, "2" = 1, "3" = 2} if 0 is'),
        ({7, 40, 1000}, 3, 'data.label_map = {"7" = 0, "40" = 1, "1000" = 2}'),
        ({0, 1, 2, 65535}, 3, "data.ignore = [65535]"),
        ({0, 1, 2, 3, 255}, 2, 'data.classes = ["class0", "class1", "class2", "class3"]'),
        ({3, 77, 900}, 4, 'data.label_map = {"3" = CLASS, "77" = CLASS, "900" = CLASS}'),
    ],
)
def test_the_likely_table_is_what_one_would_type(
    values: set[int], classes: int, typed: str
) -> None:
    names = tuple(f"c{index}" for index in range(classes))
    told = likely_table(values, names)
    assert told.startswith(typed)
    if told == typed:  # nothing but a table: it can be pasted
        import tomllib

        table = tomllib.loads(typed.removeprefix("data."))["label_map"]
        load_config([], {"data": {"classes": [*names], "label_map": table}})
