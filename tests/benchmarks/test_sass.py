"""Loops are found in machine code, however its branches are written, with what they hold."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sass import Block, parse

ROOT = Path(__file__).resolve().parent.parent.parent


def listing(text: str, name: str = "kernel") -> str:
    """As nvdisasm prints instructions and labels, one a line of `text`."""
    lines = [f'\t.section\t.text.{name},"ax",@progbits', "        .align  128", f".text.{name}:"]
    address = 0
    for line in map(str.strip, text.strip().splitlines()):
        if line.endswith(":"):
            lines.append(line)
        else:
            lines.append(f"        /*{address:04x}*/                   {line} ;")
            address += 16
    return "\n".join(lines)


def lengths(block: Block) -> list[Any]:
    """Instructions of its own, then the same of each loop in it."""
    return [block.own, *map(lengths, block.loops)]


def test_a_loop_is_told_from_what_stands_round_it() -> None:
    code = """
        MOV R1, c[0x0][0x28]
        .L_x_0:
        LDG.E R2, desc[UR4][R4.64]
        FADD R3, R3, R2
        @P0 BRA `(.L_x_0)
        STG.E desc[UR4][R6.64], R3
        EXIT
        .L_x_1:
        BRA `(.L_x_1)
    """
    found = parse(listing(code))
    assert lengths(found) == [3, [3]]  # what stands behind EXIT never runs
    assert found.counts == {"LDG.32": 1, "STG.32": 1}
    assert found.loops[0].counts == {"LDG.32": 1}
    assert list(found.innermost()) == [found.loops[0]]


def test_loops_in_loops_and_beside_one_another_are_nested() -> None:
    code = """
        .L_x_0:
        IADD3 R1, R1, 0x1, RZ
        .L_x_1:
        FADD R3, R3, R2
        BRA.U UP0, `(.L_x_1)
        .L_x_2:
        MUFU.EX2 R3, R3
        BAR.SYNC.DEFER_BLOCKING 0x0
        @!UP1 BRA `(.L_x_2)
        @P1 BRA P2, `(.L_x_0)
        EXIT
    """
    found = parse(listing(code))
    assert lengths(found) == [1, [2, [2], [3]]]
    assert [loop.counts for loop in found.innermost()] == [{}, {"MUFU": 1, "BAR": 1}]
    assert found.loops[0].counts == {"MUFU": 1, "BAR": 1}


def test_edges_back_to_the_same_place_are_one_loop() -> None:
    code = """
        .L_x_0:
        IADD3 R1, R1, 0x1, RZ
        @P0 BRA `(.L_x_1)
        FADD R3, R3, R2
        @P1 BRA `(.L_x_0)
        EXIT
        .L_x_1:
        FMUL R3, R3, R2
        @P2 BRA `(.L_x_0)
        EXIT
    """
    assert lengths(parse(listing(code))) == [2, [6]]


def test_sides_of_a_branch_meet_where_its_region_ends() -> None:
    # Threads that leave the loop early wait in BSYNC for the others, far from where they go on.
    code = """
        BSSY.RECONVERGENT B0, `(.L_x_2)
        .L_x_0:
        ISETP.GT.AND P0, PT, R1, RZ, PT
        @P0 BRA `(.L_x_1)
        BSYNC.RECONVERGENT B0
        .L_x_1:
        IADD3 R1, R1, 0x1, RZ
        BRA `(.L_x_0)
        .L_x_2:
        EXIT
    """
    assert lengths(parse(listing(code))) == [3, [4]]


def test_a_loop_that_is_left_by_call_is_one() -> None:
    # So ptxas does for sm_80.
    code = """
        .L_x_0:
        IADD3 R1, R1, 0x1, RZ
        @!P0 CALL.REL.NOINC `(.L_x_1)
        BRA `(.L_x_0)
        .L_x_1:
        EXIT
    """
    found = parse(listing(code))
    assert lengths(found) == [1, [3]]
    assert found.counts == {}


def test_subroutines_and_forms_for_parted_warps_do_not_count() -> None:
    code = """
        .L_x_0:
        BRA.DIV UR4, `(.L_x_2)
        SHFL.BFLY PT, R2, R3, 0x1, 0x1f
        .L_x_1:
        @!P0 CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_rn_f64_full)
        @P1 BRA `(.L_x_0)
        EXIT
        .L_x_2:
        WARPSYNC.COLLECTIVE R5, `(.L_x_3)
        SHFL.BFLY P6, R2, R3, R6, R7
        .L_x_3:
        BRA `(.L_x_1)
        $__internal_0_$__cuda_sm20_div_rn_f64_full:
        DFMA R2, R2, R4, R6
        RET.REL.NODEC R8 `(kernel)
    """
    found = parse(listing(code))
    assert lengths(found) == [1, [4]]
    assert found.counts == {"SHFL": 1, "CALL": 1}


@pytest.mark.parametrize(
    ("instruction", "kind"),
    [
        ("LDG.E.U8.CONSTANT R2, desc[UR4][R4.64]", "LDG.8"),
        ("@!P0 LDG.E.LTC128B.64 R2, [R4.64]", "LDG.64"),
        ("STG.E.128 desc[UR4][R4.64], R8", "STG.128"),
        ("LDG.E.ENL2.256 R2, R6, desc[UR4][R4.64]", "LDG.256"),
        ("DSETP.MAX.AND P0, P1, R2, R4, PT", "F64"),
        ("F2F.F64.F32 R2, R4", "F64"),
        ("I2F.F64 R2, R4", "F64"),
        ("F2I.S64.F64.TRUNC R2, R4", "F64"),
        ("F2I.FTZ.U32.TRUNC.NTZ R2, R4", None),
        ("MUFU.RCP64H R3, R5", "MUFU"),
        ("ATOMS.POPC.INC.32 RZ, [R2+UR4]", "ATOM"),
        ("RED.E.ADD.64.STRONG.GPU desc[UR4][R4.64], R2", "ATOM"),
        ("LDSM.16.M88.4 R4, [R2]", "LDS"),
        ("STL.64 [R1+0x8], R2", "STL"),
        ("LDL R2, [R1]", "LDL"),
        ("DEPBAR.LE SB0, 0x0", None),
    ],
)
def test_an_instruction_is_counted_as(instruction: str, kind: str | None) -> None:
    found = parse(listing(f"{instruction}\nEXIT"))
    assert found == Block(2, {kind: 1} if kind else {})


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="no instruction; give it a cubin"):
        parse("nothing")
    with pytest.raises(ValueError, match="more than one kernel"):
        parse(listing("EXIT") + "\n" + listing("EXIT", "other"))
    with pytest.raises(ValueError, match="BRX jumps to an address"):
        parse(listing("BRX R2 -0x10\nEXIT"))
    into_the_middle = """
        @P0 BRA `(.L_x_1)
        .L_x_0:
        FADD R3, R3, R2
        .L_x_1:
        FMUL R3, R3, R2
        @P1 BRA `(.L_x_0)
        EXIT
    """
    with pytest.raises(ValueError, match="into the middle of a loop"):
        parse(listing(into_the_middle))


def test_the_loops_of_a_kernel_are_those_that_it_was_written_with() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("counted_kernel.py")],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_architecture = json.loads(done.stdout)
    assert list(by_architecture) == ["80", "90", "100"]
    for lowered in by_architecture.values():
        code = Block.read(lowered["code"])
        (rows,) = code.loops
        (halvings,) = rows.loops
        assert halvings.counts == {"LDG.32": 1, "MUFU": 1}
        # The sum over the block: shuffles inside each warp, then through shared memory.
        assert {kind for kind in rows.counts if kind not in halvings.counts} >= {"SHFL", "BAR"}
        assert rows.counts["STG.32"] == 1
        assert code.counts == rows.counts
        assert lowered["loads"] == {"32": 2}
        assert lowered["stores"] == {"32": 1}
        assert lowered["spilled"] == 0
