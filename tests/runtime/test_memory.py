"""Free and total memory, on a machine and in a container."""

from pathlib import Path

import pytest
import torch

from engine.runtime import memory
from engine.runtime.memory import free_bytes, total_bytes

CPU = torch.device("cpu")


def test_what_is_free_is_a_part_of_all() -> None:
    assert 0 < free_bytes(CPU) <= total_bytes(CPU)


def test_a_containers_limit_counts_and_its_files_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n", encoding="ascii")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(CPU) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert free_bytes(CPU) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("2900000\n", encoding="ascii")
    stat = "anon 1000000\ninactive_file 1500000\nactive_file 400000\n"
    (tmp_path / "memory.stat").write_text(stat, encoding="ascii")
    assert free_bytes(CPU) == 2_000_000
    assert total_bytes(CPU) == 3_000_000
