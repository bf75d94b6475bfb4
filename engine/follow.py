"""What a process of one training does that is not the first: what that one tells it.

It opens the same experiment, trains its parts of each batch and looks at its share of the frames.
It leases nothing and writes nothing into the run folder.
"""

from dataclasses import replace

import torch

from engine.config import Config
from engine.data.sources import ResidentFrames
from engine.distributed.orders import Order
from engine.distributed.world import World
from engine.experiment import Experiment, open_experiment
from engine.rundir import RunDir
from engine.runtime.device import set_up_device
from engine.runtime.graphs import free_recordings
from engine.training.loop import FoldTraining
from engine.training.records import Position
from engine.views.predictor import open_predictor
from engine.views.store import oof_layout
from engine.views.together import hand_fold, hand_masks


def follow(config: Config, run_dir: RunDir, world: World) -> None:
    """Do what the first process tells until it says that there is nothing left.

    Raises as `engine.experiment.complete`; RuntimeError where this process sees another experiment
    or another state of a fold.
    """
    orders = map(Order.model_validate_json, world.orders())
    opening = next(orders, None)
    if opening is None:
        return
    torch.set_num_threads(opening.threads)
    run = replace(open_experiment(config, run_dir), world=world)
    if run.weights_hash != opening.weights_hash:
        raise RuntimeError(
            f"process {world.rank} sees another dataset or config than the first one; both have to "
            "be on storage that all share"
        )
    resident: ResidentFrames | None = None
    for order in orders:
        here = _set_up(run, order)
        if order.do == "train":
            resident = None
            resident = _train(here, world, order)
        elif order.do == "predict":
            alike = here.policy.device == run.policy.device
            _predict(here, world, order, resident if alike else None)
        else:
            folds = range(config.networks)
            opened = open_predictor(here.config, run_dir, folds, here.policy)
            opened = opened.at(order.temperature)
            hand_masks(opened, run.dataset.test.samples, order.start, world)
        torch.set_num_threads(opening.threads)


def _set_up(run: Experiment, order: Order) -> Experiment:
    """The same with what the first process runs with, but for the device's number."""
    assert order.recorded is not None, "the first process says it"
    runtime = order.recorded.of_runtime(run.config.runtime)
    config = run.config.model_copy(update={"runtime": runtime})
    if (reduce := order.recorded.reduce) is not None:
        training = config.training.model_copy(update={"reduce": reduce})
        config = config.model_copy(update={"training": training})
    return replace(run, config=config, policy=set_up_device(runtime))


def _train(run: Experiment, world: World, order: Order) -> ResidentFrames | None:
    position = run.position(order.fold) or Position()
    if (position.epoch, position.step) != order.at:
        raise RuntimeError(
            f"process {world.rank} finds fold {order.fold} of {run.dir.root} at epoch "
            f"{position.epoch + 1}, step {position.step}, and the first one elsewhere; the run "
            "folder has to be on storage that all share"
        )
    task = run.task(order.fold)
    task = replace(task, stop_after=order.stop_after)
    if task.config.training.teacher:
        from engine.training.pseudo import with_labels

        task = with_labels(task)
    resident = FoldTraining(task, run.policy, world=world).run()
    if run.policy.device.type == "cuda":
        free_recordings()
    return resident


def _predict(run: Experiment, world: World, order: Order, resident: ResidentFrames | None) -> None:
    """Look at this process's share of the frames that a fold validates."""
    samples = run.dataset.train.samples
    members = run.config.members(order.fold)
    predictor = open_predictor(run.config, run.dir, members, run.policy)
    predictor = replace(predictor, reader=replace(predictor.reader, resident=resident))
    asked = [samples[index] for index in run.folds.validation(order.fold)]
    hw = oof_layout(run.config, samples, run.folds, "").shape[2:]
    hand_fold(predictor, asked, order.start, hw, world)
