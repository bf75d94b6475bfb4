"""Steps with a sharded optimiser and average beside the same without: the rank of `run_ranks`."""

import copy

import torch
import torch.distributed as dist

from engine.data.batch import Batch
from engine.distributed.exchange import open_exchange
from engine.distributed.shards import Shards
from engine.distributed.world import World
from engine.model.network import build_network
from engine.runtime.device import DevicePolicy, operations_of
from engine.training.checkpoint import checkpoint_of
from engine.training.records import Checkpoint, Position
from engine.training.sharded import ShardedEma
from engine.training.starts import restore
from engine.training.step import (
    Ema,
    EpochSums,
    Learner,
    TrainingLoss,
    TrainStep,
    class_weights,
    make_optimizer,
)
from tests.distributed.thirty import CLASSES, CPU, IMAGES, make_batch, make_config

STEPS = 3


def steps(rank: int, size: int, reduce: str) -> dict[str, object]:
    """Of both: what a checkpoint holds, which continues the other; bytes that a process keeps."""
    config = make_config("fpn", reduce=reduce, lr="1e-2")
    group = dist.group.WORLD
    world = World(rank, size, group, group)
    found: dict[str, object] = {}
    saved = None
    for sharded in (False, True):
        torch.manual_seed(0)
        network = build_network(config.model, CLASSES).train()
        parameters = [*network.parameters()]
        shards = Shards(parameters, world) if sharded else None
        training = config.training
        ema = Ema(network, training.ema_decay, warmup=False)
        if shards is not None:
            ema = ShardedEma(network, training, shards)
        optimizer = make_optimizer(network, training, shards=shards)
        learner = Learner(network, ema, optimizer, EpochSums(CPU))
        if saved is not None:
            restore(saved, learner)
        exchange = open_exchange(network, training, IMAGES, CPU, world)
        operations = operations_of("fused")
        loss = TrainingLoss(training, class_weights(training, config.data.classes, CPU), operations)
        policy = DevicePolicy(CPU, None, compile=False, operations=operations)
        step = TrainStep(learner, loss, policy, 0, exchange)
        content = None
        for number in range(STEPS, 2 * STEPS) if saved else range(2 * STEPS):
            batch, rows = make_batch(number, unlike=False), exchange.rows
            image, depth = batch.image_BCHW[rows], batch.depth_BHW[rows]
            part = Batch(image, depth, batch.label_BHW[rows], batch.index[rows])
            step(part, 1e-2, number, number)
            if number == STEPS - 1:
                content = copied(learner)
        if not sharded:
            saved = Checkpoint(Position(), content or {})
        kind = "sharded" if sharded else "whole"
        state = [t for entry in optimizer.state.values() for t in entry.values()]
        held = [*state, *ema.network.parameters()]
        found[f"{kind} bytes"] = sum(t.untyped_storage().nbytes() for t in held)
        found[kind] = copied(learner)
    return found


def of_each(rank: int, size: int, *reduces: str) -> dict[str, dict[str, object]]:
    """`steps` by how parts are added up; by the same processes."""
    return {reduce: steps(rank, size, reduce) for reduce in reduces}


def copied(learner: Learner) -> dict[str, object]:
    """A checkpoint's content as it is now; by all processes at once."""
    with learner.ema.whole():
        return copy.deepcopy(checkpoint_of("hash", Position(), learner).content)
