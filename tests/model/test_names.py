"""Encoders that timm does not have are known without loading it, and no other is refused."""

import re
import sys
from pathlib import Path

import pytest
import timm

from engine.model.names import check_seen, models_source


def test_every_network_of_timm_is_mentioned_in_its_sources() -> None:
    words = set(re.findall(r"\w+", models_source(Path(timm.__file__).parent)))
    # Other tests may have added networks to it.
    own = {
        name for name in timm.list_models() if timm.model_entrypoint(name).__module__[:4] == "timm"
    }
    assert own <= words


def test_a_name_that_its_sources_lack_is_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_seen("convnext_bass")  # timm is loaded: somebody may have added networks to it
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(
        ValueError, match=r"'convnext_bass' is not a timm model; did you mean convnext_base,"
    ):
        check_seen("convnext_bass")
    check_seen("convnext_base.fb_in22k")
