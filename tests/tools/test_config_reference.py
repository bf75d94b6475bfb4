"""The configuration page is what the fields say."""

from engine.config import Config
from tools.config_reference import PAGE, page


def test_the_page_is_as_the_fields_are() -> None:
    told = "python -m tools.config_reference writes it anew"
    assert PAGE.read_text(encoding="utf-8") == page(), told


def test_every_field_has_a_row_that_says_what_it_is() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    fields = [
        f"`{key}`"
        for name in Config.model_fields
        for key in type(getattr(Config(), name)).model_fields
    ]
    assert [row[0].removeprefix("| ") for row in rows] == fields
    assert all(row[3].strip(" |") for row in rows), "a field has no docstring"
