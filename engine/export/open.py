"""A graph of trained runs, and what tells of it.

Axes: H W pixels of a frame.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from engine.export.graph import Graph, Member
from engine.export.sizes import Size
from engine.identity import file_hash
from engine.trained import TrainedRun
from engine.verbs import version
from engine.views.predictor import load_network


def open_graph(chosen: Sequence[TrainedRun], hw: Size | None) -> Graph:
    """The graph of what looks at frames: of any size, or of `hw` alone where that is needed.

    Raises as `load_network`.
    """
    members = []
    for one in chosen:
        opened = [load_network(one.config, one.run, fold) for fold in one.folds]
        networks, specs = zip(*opened, strict=True)
        members.append(Member(networks, specs, one.config, one.temperature, hw))
    first = next((one for one in chosen if one.config.needs_depth), chosen[0]).config
    weights = [_weights(one) for one in chosen] if len(chosen) > 1 else None
    return Graph(members, weights, first.data.depth_invalid, hw).eval()


def describe(chosen: Sequence[TrainedRun], graph: Graph) -> dict[str, Any]:
    """What a graph is made of and takes, as JSON: it goes into each file, and makes the `key`."""
    first = next((one for one in chosen if one.config.needs_depth), chosen[0]).config
    depth = {
        "unit_m": first.data.depth_scale,
        "missing": sorted({0, *first.data.depth_invalid}),
    }
    told = {
        "classes": list(first.data.classes),
        "frame": list(graph.hw) if graph.hw else "any size",
        "views": [list(hw) for hw in graph.views_hw],
        "mirrored": graph.flips,
        "depth": depth if graph.has_depth else None,
        "runs": [
            {
                "name": one.run.root.resolve().name,
                "weight": one.weight if len(chosen) > 1 else 1.0,
                "temperature": one.temperature,
                "weights_sha256": {str(fold): file_hash(one.run.best(fold)) for fold in one.folds},
            }
            for one in chosen
        ],
    }
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return {"made_by": version(), "key": key, **told}


def _weights(one: TrainedRun) -> list[float]:
    """By class."""
    weight, classes = one.weight, one.config.data.classes
    by_name = weight if isinstance(weight, dict) else dict.fromkeys(classes, weight)
    return [by_name[name] for name in classes]
