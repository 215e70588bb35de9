import pytest

from benchmarks.tpu_memory_traffic import program_of

# A loop over a copy of a matrix onto the chip, a product with it there, a row of a table, one written in
# place to a cache, and a product with a stack of four experts.
TEXT = """
HloModule step

%row (table: bf16[64,128], at: s32[]) -> bf16[1,128] {
  %table = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %same = bf16[64,128]{1,0} bitcast(%table)
  ROOT %found = bf16[1,128]{1,0:T(2,128)(2,1)S(1)} dynamic-slice(%same, %at, %zero)
}

%write (cache: bf16[256,128], new: bf16[1,128], place: s32[]) -> bf16[256,128] {
  %cache = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(0)
  %new = bf16[1,128]{1,0:T(2,128)(2,1)S(1)} parameter(1)
  %place = s32[]{:T(128)S(6)} parameter(2)
  %nil = s32[]{:T(128)} constant(0)
  ROOT %written = bf16[256,128]{1,0:T(8,128)(2,1)} dynamic-update-slice(%cache, %new, %place, %nil)
}

%body (all: (bf16[128,128], bf16[64,128], bf16[256,128], bf16[4,128,128])) -> (bf16[128,128]) {
  %all = (bf16[128,128]{1,0}, bf16[64,128]{1,0}, bf16[256,128]{1,0}, bf16[4,128,128]{2,1,0}) parameter(0)
  %w = bf16[128,128]{1,0:T(8,128)(2,1)} get-tuple-element(%all), index=0
  %words = bf16[64,128]{1,0:T(8,128)(2,1)} get-tuple-element(%all), index=1
  %slots = bf16[256,128]{1,0:T(8,128)(2,1)} get-tuple-element(%all), index=2
  %stack = bf16[4,128,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%all), index=3
  %n = s32[]{:T(128)S(6)} constant(3)
  %began = (bf16[128,128]{1,0:T(8,128)(2,1)S(1)}, bf16[128,128]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %near = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%began)
  %x = bf16[1,128]{1,0:T(2,128)(2,1)S(1)} fusion(%words, %n), kind=kLoop, calls=%row
  %y = bf16[1,128]{1,0:T(2,128)(2,1)S(1)} convolution(%x, %near), dim_labels=bf_io->bf
  %kept = bf16[256,128]{1,0:T(8,128)(2,1)} fusion(%slots, %y, %n), kind=kLoop, calls=%write
  %ragged-dot-none.1 = bf16[1,128]{1,0:T(2,128)(2,1)S(1)} custom-call(%n, /*index=1*/%y, %stack)
  ROOT %next = (bf16[128,128]{1,0}) tuple(%w)
}

%goes (all.1: (bf16[128,128])) -> pred[] {
  %all.1 = (bf16[128,128]{1,0}) parameter(0)
  ROOT %yes = pred[]{:T(128)S(6)} constant(true)
}

ENTRY %main (p: (bf16[128,128])) -> (bf16[128,128]) {
  %p = (bf16[128,128]{1,0}, bf16[64,128]{1,0}, bf16[256,128]{1,0}, bf16[4,128,128]{2,1,0}) parameter(0)
  ROOT %loop = (bf16[128,128]{1,0}) while(%p), condition=%goes, body=%body
}
"""
MATRIX, ROW = 128 * 128 * 2, 128 * 2


@pytest.mark.parametrize(("chosen", "experts"), [({4: 1}, 1), ({4: 2}, 2), ({}, 4)])
def test_what_stays_on_the_chip_or_is_not_touched_moves_nothing(chosen, experts):
    read = MATRIX + ROW + experts * MATRIX
    assert program_of(TEXT, chosen).traffic == read + ROW


def test_of_two_branches_the_costlier_counts():
    branches = TEXT.replace(
        "while(%p), condition=%goes, body=%body", "conditional(%p), branch_computations={%goes, %body}"
    )
    assert program_of(branches, {4: 1}).traffic == program_of(TEXT, {4: 1}).traffic
