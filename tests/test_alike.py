"Samples that were read twice: the comparison, its bound, and what is said of pairs."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import look, quick, small, text_of, with_again, with_counts
from scipy import sparse

import aam_nb.evaluation.alike as page
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.alike import ALIKE, CELLS, alike, chi_squared, copies
from aam_nb.types import Study, Table, strings

FIRST, SECOND = np.array([0]), np.array([1])


@pytest.fixture
def study(): return small()


def two(x, y):
    "A table of two samples."
    counts = sparse.csr_matrix(np.stack([x, y]).astype(np.int32))
    sequences = strings([f"A{'C'*i}" for i in range(len(x))])
    return Table(counts=counts, sample_ids=strings(["a", "b"]), sequences=sequences)


def drawn(seed, asvs, n, m, noise):
    "Reads of two samples from communities that differ by some noise."
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(asvs))
    q = p*np.exp(rng.normal(0, noise, asvs))
    return rng.multinomial(n, p), rng.multinomial(m, q/q.sum())


READS = st.integers(300, 30_000)


@given(st.integers(0, 10**6), st.integers(10, 60), READS, READS, st.floats(0, .6))
def test_the_bound_rules_out_nothing_that_is_alike(seed, asvs, n, m, noise):
    "The quick bound against the full comparison, and chi-squared against its definition."
    x, y = drawn(seed, asvs, n, m, noise)
    both, well, table = x + y > 0, x + y >= 10, two(x, y)
    term = (np.sqrt(m/n)*x - np.sqrt(n/m)*y)[both]**2/(x + y)[both]
    every, some, cells = (o[0] for o in chi_squared(table.counts, FIRST, SECOND))
    assert np.isclose(every, term.sum()/(both.sum() - 1)) and cells == well.sum()
    assert np.isclose(some, term[well[both]].sum()/max(1, well.sum() - 1))
    affinity = np.sqrt(x/n*(y/m)).sum()
    assert term.sum() >= 2*min(n, m)*(1 - affinity) - 1e-6
    rich = min((x > 0).sum(), (y > 0).sum()) >= CELLS
    wanted = rich and every <= ALIKE and some <= ALIKE and cells >= CELLS and affinity >= .5
    assert bool(len(alike(table)[0])) == wanted


def test_two_draws_of_one_community_have_chi_squared_one():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(80))
    def chi():
        counts = np.stack([rng.multinomial(n, p) for n in (4000, 9000)])
        return chi_squared(sparse.csr_matrix(counts), FIRST, SECOND)[0][0]
    found = [chi() for _ in range(60)]
    assert abs(np.mean(found) - 1) < .06 and max(found) < ALIKE


def test_blocks_do_not_matter(study, monkeypatch):
    s = with_again(with_again(study, 7, "x"), 50, "y", seed=2)
    pairs, chi = alike(s.table)
    assert pairs.tolist() == [[7, 120], [50, 121]] and chi[0] == 0
    shuffled = np.random.default_rng(0).permutation(122)
    again, _ = alike(s.table.samples(shuffled))
    assert {tuple(sorted(s.ids[shuffled][o])) for o in again} == {("S007", "x"), ("S050", "y")}
    monkeypatch.setattr(page, "PAIRS_AT_ONCE", 122*7)
    assert alike(s.table)[0].tolist() == pairs.tolist()


def test_poor_communities_are_never_called_alike():
    counts = np.random.default_rng(0).multinomial(1000, [.97, .01, .01, .01], 30)
    table = Table(counts=sparse.csr_matrix(counts.astype(np.int32)), sample_ids=strings(range(30)),
                  sequences=strings(["AA", "AC", "AG", "CC"]))
    assert not len(alike(table)[0]) and not look(Study(table=table)).findings


def test_copies_in_a_study_too_large_for_pairs(study):
    s = with_again(with_again(study, 7, "x"), 7, "y")
    assert copies(s.table)[0].tolist() == [[7, 120], [7, 121]]
    found = quick(s, groups="subject", most=50)
    assert "Only exact copies" in found[0].text and len(found) == 2 and "2 pairs" in found[1].text
    assert "Only exact copies" in text_of(look(study, groups="subject", most=50).findings, "alike")


def test_technical_repeats_are_named_by_the_column_that_explains_them():
    rng = np.random.default_rng(0)
    base = simulate(samples=60, groups=60, seed=1).table.counts.toarray()
    second = [rng.multinomial(o.sum(), o/o.sum()) for o in base[:20]]
    s = with_counts(simulate(samples=80, groups=80, seed=1), np.concatenate([base, second]))
    tubes = pd.DataFrame({"tube": [*range(60), *range(20)], "half": np.arange(80) % 2}, index=s.ids)
    found = text_of(look(replace(s, metadata=tubes)).findings, "alike")
    assert "20 pairs" in found and "'tube' is the same in 20 of them" in found
