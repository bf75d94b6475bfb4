"""The store of out-of-fold probabilities: what it refuses, and what survives a stop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.damage import DamageError
from engine.lease import hold
from engine.rundir import RunDir
from engine.sums import sum_file
from engine.views.records import FoldState, Manifest, StoreLayout
from engine.views.store import ProbStoreWriter, adopt_progress, open_store

STEMS = ("a", "b", "c", "d")
FOLD_OF = np.array([0, 1, 0, 1])
HW = (3, 5)


def layout_of(**fields: Any) -> StoreLayout:
    given: dict[str, Any] = {
        "shape": (4, 2, *HW),
        "stems": STEMS,
        "fold_of": FOLD_OF,
        "classes": ("floor", "wall"),
        "temperatures": (0.7, 1.0),
        "key": "key",
    }
    return StoreLayout(**{**given, **fields})


def prob_of(index: int) -> NDArray[np.float32]:
    """(T, C, h, w): what sample `index` has at each temperature."""
    rng = np.random.default_rng(index)
    return rng.random((2, 2, *HW), dtype=np.float32)


def state_of(done: int, weights: str = "weights") -> FoldState:
    return FoldState(weights=weights, done=done, elapsed_s=0.5, confusion=[[[1]], [[2]]])


def fill(writer: ProbStoreWriter, samples: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    for index in samples:
        fold = int(FOLD_OF[index])
        writer.write(index, prob_of(index), fold)
        writer.commit(fold, state_of(sum(int(FOLD_OF[i]) == fold for i in samples if i <= index)))


def names(folder: Path) -> list[str]:
    """What stands in a folder, but for checksums, each of which has its file."""
    found = sorted(path.name for path in folder.iterdir())
    summed = {name.removeprefix(".").removesuffix(".sum") for name in found if ".sum" in name}
    assert summed <= set(found)
    return [name for name in found if ".sum" not in name]


def test_a_finished_store_holds_the_chosen_temperature_and_nothing_else(tmp_path: Path) -> None:
    writer = ProbStoreWriter(tmp_path, layout_of())
    fill(writer)
    writer.finish(1.0, "whole")
    assert names(tmp_path) == ["manifest.json", "prob.npy"]
    store = open_store(tmp_path, "whole")
    assert store.prob_NChw.dtype == np.float16
    assert store.prob_NChw.shape == (4, 2, *HW)
    for index in range(4):
        assert np.array_equal(store.prob_NChw[index], prob_of(index)[1].astype(np.float16))
    assert store.manifest.stems == STEMS
    assert store.manifest.classes == ("floor", "wall")
    assert store.manifest.folds == (0, 1, 0, 1)
    assert store.manifest.temperature == 1.0
    assert store.manifest.predicted == {0: state_of(2), 1: state_of(2)}
    assert store.manifest.predicted[1].confusion == [[[1]], [[2]]]


def test_a_finished_store_cannot_be_written_through(tmp_path: Path) -> None:
    writer = ProbStoreWriter(tmp_path, layout_of())
    fill(writer)
    writer.finish(0.7, "whole")
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        store.prob_NChw[0] = 0


@pytest.mark.parametrize(("index", "fold"), [(0, 1), (3, 0)])
def test_a_sample_that_the_fold_trained_on_is_refused(
    index: int, fold: int, tmp_path: Path
) -> None:
    writer = ProbStoreWriter(tmp_path, layout_of())
    fill(writer)
    with pytest.raises(ValueError, match=f"{STEMS[index]} is validated by fold {FOLD_OF[index]}"):
        writer.write(index, np.zeros((2, 2, *HW), np.float32), fold)
    writer.finish(0.7, "whole")
    assert np.array_equal(open_store(tmp_path).prob_NChw[index], prob_of(index)[0].astype("f2"))


@pytest.mark.parametrize("shape", [(1, 2, *HW), (2, 3, *HW), (2, 2, 5, 3), (2, 2, 15)])
def test_probabilities_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    writer = ProbStoreWriter(tmp_path, layout_of())
    with pytest.raises(ValueError, match=r"probabilities must be \(2, 2, 3, 5\)"):
        writer.write(0, np.zeros(shape, np.float32), 0)


@pytest.mark.parametrize("stopped_after", range(4))
def test_a_writer_reopened_after_a_stop_continues(stopped_after: int, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    writer = ProbStoreWriter(whole, layout_of())
    fill(writer)
    writer.finish(0.7, "key")
    samples = tuple(range(stopped_after))
    fill(ProbStoreWriter(parts, layout_of()), samples)
    again = ProbStoreWriter(parts, layout_of())
    for fold in (0, 1):
        done = sum(int(FOLD_OF[index]) == fold for index in samples)
        assert again.state(fold, "weights").done == done
    for index in range(stopped_after, 4):
        fold = int(FOLD_OF[index])
        again.write(index, prob_of(index), fold)
        again.commit(fold, state_of(1 + again.state(fold, "weights").done))
    again.finish(0.7, "key")
    assert (parts / "prob.npy").read_bytes() == (whole / "prob.npy").read_bytes()
    assert (parts / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_what_other_weights_predicted_is_not_taken_over(tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of()))
    again = ProbStoreWriter(tmp_path, layout_of())
    assert again.state(0, "weights") == state_of(2)
    fresh = again.state(0, "other weights")
    assert (fresh.weights, fresh.done, fresh.elapsed_s) == ("other weights", 0, 0)
    assert np.array_equal(fresh.confusion, np.zeros((2, 2, 2)))


def test_what_another_key_began_is_begun_again(tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of()))
    again = ProbStoreWriter(tmp_path, layout_of(key="other"))
    assert again.state(0, "weights").done == 0
    fill(again, (1,))
    again.finish(0.7, "key")
    prob = open_store(tmp_path).prob_NChw
    assert not prob[0].any(), "the first writer's sample is gone"
    assert prob[1].any()


def test_what_was_damaged_before_it_was_whole_is_named(tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of()), (0, 1, 2))
    partial = tmp_path / ".prob_t1.npy"
    damaged = bytearray(partial.read_bytes())
    damaged[-2 * 2 * 2 * 15 + 3] ^= 64  # of item 2 of four, each of 2 x 15 half floats
    partial.write_bytes(damaged)
    again = ProbStoreWriter(tmp_path, layout_of())
    again.write(3, prob_of(3), 1)
    again.commit(1, state_of(2))
    told = r"\.prob_t1\.npy is damaged: item 2 is not what was written; .*which took 1 seconds"
    with pytest.raises(DamageError, match=told):
        again.finish(1.0, "whole")


@pytest.mark.parametrize("name", [".prob_t1.npy", "progress.json"])
def test_what_lost_a_file_is_begun_again(name: str, tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of()))
    (tmp_path / name).unlink()
    again = ProbStoreWriter(tmp_path, layout_of())
    assert again.state(0, "weights").done == again.state(1, "weights").done == 0


def test_what_an_earlier_release_began_goes_on_without_checksums(tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of()), (0, 1, 2))
    note = tmp_path / "progress.json"
    text = json.loads(note.read_text("utf-8"))
    del text["noted"]
    for path in tmp_path.glob(".*.crc"):
        path.unlink()
    sum_file(note).unlink()
    note.write_text(json.dumps(text), "utf-8")
    again = ProbStoreWriter(tmp_path, layout_of())
    again.write(3, prob_of(3), 1)
    again.commit(1, state_of(2))
    again.finish(0.7, "whole")
    assert np.array_equal(open_store(tmp_path).prob_NChw[0], prob_of(0)[0].astype(np.float16))


def test_other_temperatures_leave_no_file_behind(tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of(temperatures=(0.7, 3.0))))
    again = ProbStoreWriter(tmp_path, layout_of(key="other"))
    fill(again)
    again.finish(0.7, "key")
    assert names(tmp_path) == ["manifest.json", "prob.npy"]


@pytest.mark.parametrize("chosen", [0.7, 1.0])
def test_stopped_while_finishing_it_can_finish_again(
    chosen: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ProbStoreWriter(tmp_path, layout_of())
    fill(writer)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            writer.finish(chosen, "whole")
    with pytest.raises(FileNotFoundError, match="holds no finished store"):
        open_store(tmp_path)
    again = ProbStoreWriter(tmp_path, layout_of())
    assert again.state(1, "weights") == state_of(2)
    again.finish(chosen, "whole")
    assert names(tmp_path) == ["manifest.json", "prob.npy"]
    t = layout_of().temperatures.index(chosen)
    for index, prob_Chw in enumerate(open_store(tmp_path).prob_NChw):
        assert np.array_equal(prob_Chw, prob_of(index)[t].astype(np.float16))


def test_what_an_older_release_began_beside_the_store_goes_on_in_the_lease(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    fill(ProbStoreWriter(run.oof, layout_of()), (0, 1, 2))
    for kept in ([], [".results.lease"]):  # what was left, and what this release leaves of it
        assert names(run.root) == [*kept, "oof"]
        with hold(run.results):
            adopt_progress(run)
            again = ProbStoreWriter(run.oof, layout_of())
            assert (again.state(0, "weights"), again.state(1, "weights")) == (
                state_of(2),
                state_of(1),
            )
        assert names(run.oof) == []
    with hold(run.results):
        again = ProbStoreWriter(run.oof, layout_of())
        again.write(3, prob_of(3), 1)
        again.commit(1, state_of(2))
        again.finish(0.7, "whole")
    assert names(run.root) == ["oof"]
    for index, prob_Chw in enumerate(open_store(run.oof).prob_NChw):
        assert np.array_equal(prob_Chw, prob_of(index)[0].astype(np.float16))


def test_a_note_without_its_arrays_counts_for_nothing(tmp_path: Path) -> None:
    fill(ProbStoreWriter(tmp_path, layout_of()))
    (tmp_path / ".prob_t1.npy").unlink()
    assert ProbStoreWriter(tmp_path, layout_of()).state(0, "weights").done == 0


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    writer = ProbStoreWriter(tmp_path, layout_of())
    fill(writer)
    writer.finish(0.7, "whole")
    return tmp_path


def test_a_folder_without_a_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no finished store; complete it"):
        open_store(tmp_path)


def test_a_store_made_from_something_else_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="was made from other weights, data or settings"):
        open_store(finished, "other")
    assert open_store(finished, None).manifest.key == "whole"


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_array_is_refused(keep: int, finished: Path) -> None:
    path = finished / "prob.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"prob\.npy is damaged"):
        open_store(finished)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 2, *HW), np.float16), np.zeros((4, 2, *HW), np.float32)]
)
def test_an_array_that_is_not_the_manifests_is_refused(
    array: NDArray[np.floating[Any]], finished: Path
) -> None:
    np.save(finished / "prob.npy", array)
    sum_file(finished / "prob.npy").unlink()
    with pytest.raises(ValueError, match=r"prob\.npy holds float.*the manifest says float16"):
        open_store(finished)


def test_a_manifest_that_is_no_json_is_refused(finished: Path) -> None:
    manifest = finished / "manifest.json"
    sum_file(manifest).unlink()
    manifest.write_text(json.dumps({"key": "whole"})[:-3], encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .*file: .*delete it"):
        open_store(finished)
