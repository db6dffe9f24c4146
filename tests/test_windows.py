"Batches of windows: cut as slices are, distances as the tree has them, and no tip that is held back."
import numpy as np
import pytest
import torch
from reference_folder import at_tips, gene, study

from aam_nb.batches.view import View
from aam_nb.batches.windows import LENGTHS, PlainWindows, RUN, STARTS, WindowBatches, Windows
from aam_nb.core import AamError
from aam_nb.data.reference import Reference
from aam_nb.data.regions import amplicons, other_strand, REGIONS
from aam_nb.data.tokens import detokenize, MASK
from aam_nb.data.tree import path_lengths
from aam_nb.sections import AugmentConfig
from aam_nb.types import strings

MADE = study(120, seed=2)
GENES = strings([gene(o) for o in at_tips(MADE)])
WINDOWS = Windows(Reference(genes=GENES, tree=MADE.tree))
N = len(GENES)
VIEW = View(seed=7, patch=6, mask=.15)


@pytest.mark.parametrize("region", REGIONS)
def test_windows_are_slices_of_the_amplicon_from_either_end(region):
    for start in STARTS:
        for row, tip in enumerate(WINDOWS.tips[region][:10]):
            whole = amplicons([GENES[tip]], region)[0]
            read = whole if start == "forward" else other_strand(whole)
            assert detokenize(WINDOWS.tokens[region, start][[row]])[0].rstrip("\0") == read[:LENGTHS[1]]


def test_steps_are_pure_and_vary_in_region_start_and_length():
    teach = np.arange(N) % 5 > 0
    source = WindowBatches(WINDOWS, teach, VIEW, batch=48, steps=60)
    seen = set()
    for i, o in enumerate(source):
        assert teach[o.rows].all() and len(o.rows) <= 48
        assert LENGTHS[0] <= o.tokens.shape[1] <= LENGTHS[1]
        paths = torch.tensor(path_lengths(MADE.tree, o.rows.numpy()).astype(np.float32))
        known = ~o.distance.isnan() # Within a kind
        assert torch.equal(o.distance[known], paths[known]) and known.any() and torch.equal(known, known.T)
        assert len(known.unique(dim=0)) <= 4
        assert (o.masked == MASK).any(1).all() and torch.equal(o.masked, source[i].masked)
        hidden = o.masked != MASK
        assert torch.equal(o.masked[hidden], o.tokens[hidden])
        seen.add(o.tokens.shape[1])
    assert len(seen) > 20
    with pytest.raises(IndexError): source[60]


def test_half_of_a_large_batch_are_neighbours():
    source = WindowBatches(WINDOWS, np.ones(N, bool), VIEW, batch=8*RUN, steps=20)
    runs = [int((np.diff(o.rows.numpy()) == 1).sum()) for o in source]
    assert min(runs) >= 4*(RUN - 1) # Of each of four kinds


def test_v4_and_forward_reads_come_more_often():
    source = WindowBatches(WINDOWS, np.ones(N, bool), VIEW, batch=16, steps=400)
    begins = {kind: {bytes(o[:40]) for o in tokens} for kind, tokens in WINDOWS.tokens.items()}
    def kind_of(window): return next(k for k, o in begins.items() if bytes(window[:40]) in o)
    drawn = [kind_of(o) for i in range(0, 400, 4) for o in source[i].tokens.numpy()]
    share = {o: drawn.count(o)/len(drawn) for o in begins}
    assert abs(share["V4", "forward"] - 1/3) < .08 and abs(share["V1-V3", "reverse"] - 1/12) < .05


def test_processes_hold_parts_of_the_same_batch():
    every = np.ones(N, bool)
    whole = WindowBatches(WINDOWS, every, VIEW, batch=40, steps=3)[2]
    parts = [WindowBatches(WINDOWS, every, VIEW, batch=40, steps=3, rank=o, world=3)[2] for o in range(3)]
    for name in ("tokens", "masked", "rows"):
        assert torch.cat([getattr(o, name) for o in parts]).equal(getattr(whole, name))
    assert np.array_equal(torch.cat([o.distance for o in parts]), whole.distance, equal_nan=True)
    assert [o.start for o in parts] == np.cumsum([0, *(len(o.rows) for o in parts[:2])]).tolist()
    with pytest.raises(AamError, match="cannot be shared"): WindowBatches(WINDOWS, every, batch=2, world=3)


def test_bases_vary_where_the_view_says_so():
    varied = View(seed=7, patch=6, mask=.15, augment=AugmentConfig(substitution=.1))
    every = np.ones(N, bool)
    one, other = (WindowBatches(WINDOWS, every, o, batch=40)[0] for o in (VIEW, varied))
    assert .05 < (one.tokens != other.tokens).float().mean() < .15


def test_windows_to_measure_on_are_fixed_and_come_once():
    back = np.arange(N) % 5 == 0
    plain = PlainWindows(WINDOWS, back, ("V4", "reverse", 150), VIEW, batch=10)
    again = PlainWindows(WINDOWS, back, ("V4", "reverse", 150), VIEW, batch=10)
    rows = torch.cat([o.rows for o in plain]).tolist()
    assert sorted(rows) == np.flatnonzero(back).tolist() and len(plain) == -(-len(rows)//10)
    for i, o in enumerate(plain): assert torch.equal(o.masked, again[i].masked) and o.tokens.shape[1] == 150
    assert len(PlainWindows(WINDOWS, back, ("V4", "forward", 100), VIEW, most=7)[0].rows) == 7


def test_a_region_that_few_genes_have_is_left_out():
    short = strings([o if i < 5 else o[30:] for i, o in enumerate(GENES)])
    assert set(Windows(Reference(genes=short, tree=MADE.tree)).tips) == {"V3-V4", "V4"}
    with pytest.raises(AamError, match="In none of the regions V1-V3, V3-V4, V4 do 8 genes"):
        Windows(Reference(genes=strings([o[:200] for o in GENES]), tree=MADE.tree))
