"""python -m engine.prepare: bring a dataset, check or pack it, plan its config, tidy the cache.

nyuv2 cityscapes coco labelme csv    write a dataset folder from another form
new DATA          write a config for a dataset folder, planned for a stated time
check ROOT        every fault of every file, or a summary: frames, sizes, class shares, depth, folds
stats DATA        class shares, sizes, depths, near-duplicates: shown, and as an HTML page
encode DATA OUT   a copy with the same pixels that decodes faster, and by how much
shard DATA OUT    the same files in shards, tar files that WebDataset reads, to train from
verify RUN        every file of a run or a blend read and held to its checksums
rooms DIR         render the procedural rooms into DIR
cache             list what lies in the cache of decoded frames, and prune it
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from engine.bring.command import add_forms
from engine.cli import load_config
from engine.command import run_main
from engine.config import RuntimeConfig
from engine.named import config_file
from engine.plan.command import add_new
from engine.suggest import Parser
from engine.verbs import program


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = Parser(
        prog=program("prepare"),
        description="Bring a dataset, check, pack or plan for it, verify a run, or tidy the cache.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="name every fault of a dataset folder, or summarise it",
        description="Decode every file of ROOT/train/{image,depth,label}, ROOT/test/{image,depth} "
        "and ROOT/scenes.csv. Faults are all named at once (exit code 2); a sound dataset is "
        "summarised.",
    )
    add = check.add_argument
    add("root", type=Path, metavar="ROOT", help="dataset folder")
    used = "experiment whose classes and folds apply (default: the 13 of NYUv2, 5 folds)"
    add("--config", nargs="+", action="extend", default=[], metavar="CONFIG", help=used)
    add("--depth", action="store_true", help="a frame without depth is a fault")
    stats = commands.add_parser(
        "stats",
        help="class shares, sizes, depths and near-duplicates, and an HTML page",
        description="Check DATA and count what it holds: class shares, sizes, a histogram of "
        "depth, frames that look alike. Shown, and written as one HTML page that needs nothing.",
    )
    stats.add_argument("root", type=Path, metavar="DATA", help="dataset folder")
    stats.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="CONFIG", help=used
    )
    stats.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: DATA's name -stats.html)"
    )
    stats.set_defaults(run=_stats)
    encode = commands.add_parser(
        "encode",
        help="copy a dataset, pixel by pixel the same, so that it decodes faster",
        description="Copy the dataset DATA to OUT, each PNG in the form that is measured to decode "
        "fastest on this machine; JPEGs and all else are copied as they are. Every file is decoded "
        "again and compared. OUT has the fingerprint of DATA: runs go on with either.",
    )
    encode.add_argument("root", type=Path, metavar="DATA", help="dataset folder")
    encode.add_argument("out", type=Path, metavar="OUT", help="folder to create")
    shard = commands.add_parser(
        "shard",
        help="pack a dataset into tar files of about 256 MB, to train from",
        description="Pack the dataset DATA into shards in OUT: tar files of about 256 MB, as "
        "WebDataset and tar read them, with an index. data.root = OUT trains from them, with the "
        "bytes of DATA. Stopped, the same command goes on with the next shard.",
    )
    shard.add_argument("root", type=Path, metavar="DATA", help="dataset folder")
    shard.add_argument("out", type=Path, metavar="OUT", help="folder to create or complete")
    shard.add_argument("--mb", type=_amount, default=256, help="of a shard (default: 256)")
    verified = commands.add_parser(
        "verify",
        help="read every file of a run and name those that are damaged",
        description="Read every file of a run or a blend, or of the cache of decoded frames, and "
        "hold it to the checksums beside it. Damaged files are all named (exit code 2), with what "
        "makes each again.",
    )
    verified.add_argument("root", type=Path, metavar="RUN", help="run folder, or a blend's")
    rooms = commands.add_parser("rooms", help="render the procedural rooms into DIR")
    rooms.add_argument("root", type=Path, metavar="DIR", help="folder to create")
    rooms.add_argument("--scenes", type=int, default=48, help="rooms (default: 48)")
    rooms.add_argument("--frames", type=int, default=13, help="views of each (default: 13)")
    rooms.add_argument("--hw", type=int, nargs=2, default=(120, 160), metavar=("H", "W"))
    rooms.add_argument("--seed", type=int, default=0, help="another seed, other rooms (default: 0)")
    cache = commands.add_parser(
        "cache",
        help="list what lies in the cache of decoded frames, and prune it",
        description="List decoded frames by data set, size and last use. All of it is made again "
        "where it is needed.",
    )
    add = cache.add_argument
    add("folder", type=Path, nargs="?", metavar="DIR", help="default: the user's cache folder")
    add("--prune", action="store_true", help="delete what is too old or too much, none in use")
    kept = RuntimeConfig()
    add(
        "--days",
        type=_amount,
        default=kept.cache_days,
        help=f"unused (default: {kept.cache_days:g})",
    )
    add(
        "--gib",
        type=_amount,
        default=kept.cache_gib,
        help=f"that stay (default: {kept.cache_gib:g})",
    )
    add_forms(commands)
    add_new(commands)
    cache.set_defaults(run=_cache)
    check.set_defaults(run=_check)
    encode.set_defaults(run=_encode)
    shard.set_defaults(run=_shard)
    verified.set_defaults(run=_verify)
    rooms.set_defaults(run=_render)
    options = parser.parse_args(arguments)
    options.run(options)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Read every file anew, print a summary and remember what was found."""
    from rich.console import Console

    from engine.frames.cache import cache_folder
    from engine.frames.index import CheckMemory, DatasetSpec, load_dataset
    from engine.frames.reading import Reading
    from engine.report.census import check_notes
    from engine.report.dataset_tables import dataset_tables
    from engine.runtime.progress import track_total

    root = options.root
    config = load_config([*map(config_file, options.config)], {"data": {"root": str(root)}})
    data, runtime = config.data, config.runtime
    need_depth = options.depth or config.needs_depth
    spec = DatasetSpec(data.classes, data.small_classes, need_depth, Reading.of(data))
    memory = CheckMemory(cache_folder(runtime.cache), anew=True)
    with track_total("checking files") as progress:
        dataset = load_dataset(
            root, spec, workers=runtime.workers, progress=progress, memory=memory
        )
    for table in dataset_tables(root, dataset, config):
        Console().print(table)
    for note in check_notes(config, dataset):
        print(note)


def _stats(options: argparse.Namespace) -> None:
    """Read every file, as `check` does, and count."""
    from rich.console import Console

    from engine.data.checked import read_dataset
    from engine.report.data_stats import data_stats, stats_tables
    from engine.report.page.data_page import data_page
    from engine.runtime.progress import track_total
    from engine.whole import write_text

    root = options.root
    known = [root / "dataset.toml"] if (root / "dataset.toml").is_file() else []
    files = [*known, *map(config_file, options.config)]
    config = load_config(files, {"data": {"root": str(root)}})
    dataset = read_dataset(config)
    with track_total("reading depth") as progress:
        stats = data_stats(root, dataset, config, progress)
    for table in stats_tables(stats):
        Console().print(table)
    for note in stats.notes:
        print(note)
    out = options.out or Path(f"{root.resolve().name}-stats.html")
    write_text(out, data_page(stats, dataset.train.samples))
    print(f"{out} is written")


def _encode(options: argparse.Namespace) -> None:
    from rich.console import Console

    from engine.frames.encode import encode_dataset
    from engine.report.encoding_table import encoding_table, verdict
    from engine.runtime.progress import track_total

    with track_total("encoding frames") as progress:
        # It does nothing but compress, on every core.
        workers = os.cpu_count() or 1
        outcomes = encode_dataset(options.root, options.out, workers=workers, progress=progress)
    Console().print(encoding_table(options.out, outcomes))
    print(verdict(options.out, outcomes))


def _shard(options: argparse.Namespace) -> None:
    from engine.frames.pack import pack_dataset
    from engine.runtime.progress import track_total

    with track_total("packing frames") as progress:
        packed = pack_dataset(
            options.root, options.out, shard_bytes=int(options.mb * 1e6), progress=progress
        )
    counts = " and ".join(f"{count} {split} frames" for split, count in packed.frames.items())
    size_mb = sum(shard.size for shard in packed.shards) / 1e6
    print(f"{options.out}: {counts} in {len(packed.shards)} shards, {size_mb:.1f} MB")


def _verify(options: argparse.Namespace) -> None:
    from rich.console import Console

    from engine.report.verify import refuse, verdict_table, verify
    from engine.runtime.progress import track_total

    with track_total("reading files") as progress:
        verdicts = verify(options.root, progress)
    Console().print(verdict_table(options.root, verdicts))
    unchecked = [verdict.name for verdict in verdicts if verdict.state == "unchecked"]
    if unchecked:
        some = ", ".join(unchecked[:3]) + (", ..." if len(unchecked) > 3 else "")
        print(f"not verified, for want of checksums: {len(unchecked)} ({some})")
    refuse(options.root, verdicts)


def _render(options: argparse.Namespace) -> None:
    from engine.rooms.dataset import render_rooms
    from engine.runtime.progress import track_total

    root, scenes, frames, seed = options.root, options.scenes, options.frames, options.seed
    height, width = options.hw
    with track_total("rendering rooms") as progress:
        render_rooms(
            root, scenes=scenes, frames=frames, hw=(height, width), seed=seed, progress=progress
        )
    print(f"{root}: {scenes} rooms of {frames} views of {height} x {width} pixels")


def _cache(options: argparse.Namespace) -> None:
    from rich.console import Console

    from engine.frames.cache import cache_folder
    from engine.frames.prune import cache_entries, prune
    from engine.report.cache_table import cache_table

    folder = options.folder or cache_folder()
    if not folder.is_dir():
        print(f"{folder}: there is no cache")
        return
    gone = prune(folder, options.gib, options.days, wait=True) if options.prune else []
    Console().print(cache_table(folder, cache_entries(folder), gone))


def _amount(text: str) -> float:
    if (amount := float(text)) >= 0:
        return amount
    raise argparse.ArgumentTypeError("0 or more is needed")


if __name__ == "__main__":
    run_main(main)
