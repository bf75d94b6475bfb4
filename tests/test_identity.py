"""The hashes that tell runs apart stay what they are, whatever is added to the config."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_json

from engine import formats
from engine.cli import load_config, to_toml
from engine.config import Config, ReportConfig, RuntimeConfig
from engine.formats import HASHED_1, INTRODUCED, RUNTIME_1, stood
from engine.identity import file_hash, identity, stage_identity, weights_identity
from engine.resume import check_same_experiment
from engine.rundir import RunDir, load_run, write_config

ROOT = Path(__file__).resolve().parent.parent
ALL = ("data", "model", "training", "inference", "selection")

ODD: dict[str, dict[str, Any]] = {
    "data": {"classes": ["b\u00e4r\n", '"x"', "\u2028"], "small_classes": []},
    "training": {"lr": 1e-5, "class_weights": {"b\u00e4r\n": 2}},
    "inference": {"base_hw": [240, 320]},
    "selection": {"temperature": 0.7},
}
"""Values whose JSON is least plain."""

AS_FORMAT_1 = {
    "demo": ("71b8b5df3b391006", "1fd7008dd304aa12"),
    "exp093_2": ("87423e0b54bc09e0", "268a13adf1435bb5"),
    "exp093_2 lite": ("91882d31112368d9", "2e61937f2ff79b05"),
    "exp093_4": ("1181170485687bd6", "f1e04e364d0d3022"),
    "exp093_4 exp093_ensemble": ("1181170485687bd6", "f0253325c541e5ea"),
    "exp093_5": ("3e88620f968293af", "aaf71f93f31241eb"),
    "exp093_5 exp093_ensemble": ("3e88620f968293af", "d81f6a24131fdedf"),
    "exp093_6": ("cf76e9dcfc08e2b2", "a35c4e56b7adee8e"),
    "exp093_6 lite": ("1ccfbd907e0dbac7", "7d9a625cef22c982"),
}
"""The hashes of weights and stage, their first 16 digits, of files in configs/, as the last release
of format 1 computed them. A config that is improved gets new ones; nothing else may change them."""


def config_of(**sections: dict[str, Any]) -> Config:
    return Config.model_validate(sections)


def as_stood(**sections: dict[str, Any]) -> Config:
    """What a config of format 1 that names these fields means."""
    return load_config([], sections, stood())


def hashes(config: Config, run: Path) -> tuple[str, str]:
    weights = weights_identity(config, RunDir(run), "abc", [0, 1, 2])
    return weights, stage_identity(config, weights, "x")


@pytest.mark.parametrize("names", AS_FORMAT_1)
def test_a_published_config_has_the_hashes_of_format_1(names: str, tmp_path: Path) -> None:
    config = load_config([ROOT / "configs" / f"{name}.toml" for name in names.split()])
    weights, stage = hashes(config, tmp_path)
    assert (weights[:16], stage[:16]) == AS_FORMAT_1[names]


def test_the_defaults_of_format_1_and_odd_values_have_its_hashes(tmp_path: Path) -> None:
    assert hashes(as_stood(), tmp_path) == (
        "4cf682bba39b15d8d4b65f8a8c8a73812c195401f476b4865adb81846d5a4b6f",
        "c393162902bc8b6878d9415c46ec5e7a6e76af514d9b3570d2cdccc6ef392763",
    )
    assert hashes(as_stood(**ODD), tmp_path) == (
        "08dbae6c978b247557add5e3688c85079cdffabedce7a6954fd3c6e38acc71dc",
        "a2bbce9cbcebf00b1070168b9b7f6e58c5f991391512e810b179edbf877fbbcb",
    )


def test_a_folder_of_format_1_hashes_what_it_was_begun_with(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[data]\nsource = "torch"\n[training]\nkernels = "reference"\nthreads = 1\n'
        'compile = "off"\nprecision = "fp32"\nlog_every = 3\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    assert hashes(as_stood(**ODD, runtime={"threads": 2}), tmp_path) == (
        "f4525b28c3104815b8256ae953657f4d4aef41663e8580b5e19b3f8a3d66e733",
        "640d8314abc6440158ede9e20337bd28f6c30f39ad6ba4c8f526aba443620440",
    )


def test_every_field_of_the_experiment_is_hashed() -> None:
    """A new field of the experiment has to go into `formats.INTRODUCED`, with a fixture folder."""
    for section in ALL:
        for name in type(getattr(Config(), section)).model_fields:
            if (section, name) == ("data", "root") or name in INTRODUCED.get(section, {}):
                continue
            value = {"bed": 9.0} if name == "class_weights" else "changed"
            changed = Config().model_copy(
                update={section: getattr(Config(), section).model_copy(update={name: value})}
            )
            plain = identity(Config(), sections=(section,))
            assert plain != identity(changed, sections=(section,)), f"{section}.{name}"


def test_what_a_run_shows_of_itself_is_no_part_of_it(tmp_path: Path) -> None:
    shown = {name: not default for name, default in ReportConfig().model_dump().items()}
    plain, other = config_of(), config_of(report=shown)
    assert hashes(plain, tmp_path) == hashes(other, tmp_path)
    run = RunDir(tmp_path)
    write_config(plain, run)
    check_same_experiment(other, run)
    run.config.write_text("format = 3\n", encoding="utf-8")  # of a release that had no [report]
    assert load_run(run).report == ReportConfig()


def test_a_field_that_was_added_counts_only_where_it_is_not_at_its_first_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, other = config_of(), config_of(data={"root": "elsewhere"})
    before = [identity(config, sections=ALL) for config in (plain, other)]
    # As if `data.root` had been added since, with the default "elsewhere", which is "rooms" today.
    added = {**INTRODUCED.get("data", {}), "root": "elsewhere"}
    monkeypatch.setitem(formats.INTRODUCED, "data", added)
    after = [identity(config, sections=ALL) for config in (plain, other)]
    assert before[0] == before[1] == after[1] != after[0]
    assert identity(plain, sections=("model",)) == identity(other, sections=("model",))


def test_how_images_are_turned_is_told_by_the_dataset_not_by_the_config() -> None:
    turned, left = (config_of(data={"exif": value}) for value in ("turn", "ignore"))
    assert identity(turned, sections=ALL) == identity(left, sections=ALL)


WEIGHTS = {"tv": 2.0, "bed": 1.5, "books": 3.0}
"""Not in the order of the classes."""


def as_first_hashed(training: dict[str, Any]) -> str:
    """What releases before the order ceased to matter made of the section, as it was typed."""
    fields = {**Config().training.model_dump(), **RUNTIME_1, **training}
    hashed = {name: fields[name] for name in HASHED_1["training"].split()}
    return hashlib.sha256(b"training=" + to_json(hashed) + b"\n").hexdigest()


def test_the_order_of_class_weights_changes_no_identity(tmp_path: Path) -> None:
    in_order = {name: WEIGHTS[name] for name in ("bed", "books", "tv")}
    typed = [config_of(training={"class_weights": weights}) for weights in (WEIGHTS, in_order)]
    ours, others = (identity(config, sections=("training",)) for config in typed)
    assert ours == others == as_first_hashed({"class_weights": in_order})


def test_a_run_keeps_the_order_of_class_weights_that_it_was_hashed_in(tmp_path: Path) -> None:
    run, first = RunDir(tmp_path), as_first_hashed({"class_weights": WEIGHTS})
    written = to_toml(config_of(training={"class_weights": WEIGHTS}))
    run.config.write_text(written, encoding="utf-8")
    for weights in (WEIGHTS, dict(sorted(WEIGHTS.items()))):
        config = config_of(training={"class_weights": weights})
        assert identity(config, sections=("training",), run=run) == first
        # What a later call writes is hashed the same by the call after it.
        write_config(config, run)
        assert identity(config, sections=("training",), run=run) == first
    new = RunDir(tmp_path / "new")
    write_config(config_of(training={"class_weights": WEIGHTS}), new)
    ours = identity(load_run(new), sections=("training",), run=new)
    assert ours == identity(load_run(new), sections=("training",))


def test_an_identity_is_the_same_for_equal_configs() -> None:
    assert identity(Config(), "x", sections=ALL) == identity(config_of(), "x", sections=ALL)


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"fold_seed": 1}},
        {"model": {"dropout": 0.1}},
        {"training": {"lr": 2e-4}},
        {"training": {"class_weights": {"bed": 2.0}}},
        {"inference": {"flip": False}},
        {"selection": {"temperature": 0.7}},
    ],
    ids=str,
)
def test_an_identity_changes_with_every_field_that_changes_a_result(
    sections: dict[str, dict[str, Any]],
) -> None:
    (section,) = sections
    plain, other = Config(), config_of(**sections)
    assert identity(plain, sections=(section,)) != identity(other, sections=(section,))
    rest = tuple(name for name in ALL if name != section)
    assert identity(plain, sections=rest) == identity(other, sections=rest)


def test_an_identity_ignores_what_is_no_part_of_the_experiment() -> None:
    runtime = RuntimeConfig(
        workers=7,
        cache="there",
        cache_gib=1,
        cache_days=2,
        log_every=3,
        save_every=5,
        keep_last=True,
        shard_optimizer=True,
        memory_gib=3,
        device="cuda:1",
        source="dali",
        kernels="reference",
        compile="on",
        cuda_graphs="off",
        threads=3,
        deterministic=True,
        precision="bf16",
        inference="openvino",
        tune="auto",
        layers="torch",
    )
    assert runtime.model_fields_set == set(RuntimeConfig.model_fields)
    other = Config(data=Config().data.model_copy(update={"root": "elsewhere"}), runtime=runtime)
    assert identity(Config(), sections=ALL) == identity(other, sections=ALL)


def test_int8_is_no_part_of_weights_but_of_what_they_predict() -> None:
    torch, openvino, int8 = (
        Config(runtime=RuntimeConfig(inference=inference))
        for inference in ("torch", "openvino", "openvino-int8")
    )
    assert identity(torch, sections=ALL) == identity(int8, sections=ALL)
    assert stage_identity(torch, "weights") == stage_identity(openvino, "weights")
    assert stage_identity(torch, "weights") != stage_identity(int8, "weights")


def test_an_identity_tells_its_parts_apart() -> None:
    hashes = {
        identity(Config(), *parts, sections=ALL)
        for parts in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",))
    }
    assert len(hashes) == 6


def test_a_files_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"roomsmith" * 100_000)
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"roomsmith" * 100_000).hexdigest()
