"""The model of many GPUs, and the simulated sweep held to what follows by hand."""

import pytest

from benchmarks.scaling_model import (
    FRAMES,
    LINKS,
    STEP_MS,
    Vanishing,
    VirtualClock,
    all_reduce_ms,
    scaling,
    step_ms,
    sweep_plan,
    vanish,
)
from engine.sweep.driver import Driver, Patience


def test_an_all_reduce_is_that_of_its_links() -> None:
    assert all_reduce_ms(1, 25.0) == 0
    # Two hosts exchange the whole gradient once each way: 359 MB at 11.25 MB a millisecond.
    inside_ms = all_reduce_ms(8, 100.0)
    assert all_reduce_ms(16, 100.0) - inside_ms == pytest.approx(359 / 11.25 + 0.06)
    assert (
        all_reduce_ms(64, 25.0) > all_reduce_ms(64, 100.0) > all_reduce_ms(64, LINKS["NVLink only"])
    )


def test_one_gpu_takes_what_was_measured_and_overlap_hides_what_fits() -> None:
    for one_ms in STEP_MS.values():
        assert step_ms(one_ms, 1, 25.0, frames=FRAMES, overlap=False) == pytest.approx(one_ms)
        hidden = step_ms(one_ms, 8, 25.0, frames=FRAMES, overlap=True)
        assert hidden == pytest.approx(one_ms)
        assert step_ms(one_ms, 8, 25.0, frames=FRAMES, overlap=False) > hidden
    assert all(row.weak <= 1 and row.strong <= row.gpus + 1e-9 for row in scaling())


@pytest.mark.parametrize("saves_s", [0.0, 1800.0])
def test_what_vanishing_costs_is_what_follows_by_hand(saves_s: float) -> None:
    loss = vanish(saves_s, runs=300, machines=30)
    # 75 machines vanish of 300 x 5.1 h at 5 % an hour, give or take a fifth.
    assert 50 < loss.vanished < 105
    assert loss.overhead == pytest.approx(loss.expected, rel=0.35)
    assert (loss.trained_anew_s == 0) == (saves_s == 0)


def test_no_work_is_lost_or_done_twice_when_machines_save_at_once() -> None:
    clock = VirtualClock()
    workers, plan = Vanishing(clock, 0.0, 5, seed=3), sweep_plan(20)
    driver = Driver(plan, workers, workers.state, clock=clock, patience=Patience(poll_s=10.0))
    assert driver.run().complete
    assert workers.lost_s == 0
    assert driver.outcome.retried == workers.vanished > 0
