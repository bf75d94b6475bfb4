"""The notebook of the docs has been executed, as it stands, without a fault."""

import json
import re
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if NOTEBOOK.exists() else []
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_every_cell_ran_in_its_order_and_none_failed() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert len(CODE) > 3
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert all(cell["outputs"] for cell in CODE), "a cell shows nothing"


def test_its_outputs_are_small_and_name_no_folder_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(?:home|root|Users|tmp|work|var)/\w", text)


def test_it_uses_the_names_that_the_package_has() -> None:
    import roomsmith

    code = "\n".join("".join(cell["source"]) for cell in CODE)
    for name in re.findall(r"roomsmith\.(\w+)", code):
        assert hasattr(roomsmith, name), name
