"Distances and Faith PD against scikit-bio and SciPy, and against the formula where these have none."
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_trees import random_counts, random_newick, scikit_bio
from scipy import sparse
from scipy.spatial.distance import cdist

from aam_nb.core import AamError
from aam_nb.data.distances import (
    UNIFRACS,
    aitchison,
    bray_curtis,
    faith_pd,
    jaccard,
    robust_aitchison,
    sample_distances,
    unifrac,
    unifrac_blocks,
)
from aam_nb.data.tree import branch_abundance, parse_newick, read_tree, shear
from aam_nb.registry import metrics

ALONG_TREE = [o.name for o in metrics.values() if o.needs_tree]
OF_READS = [o.name for o in metrics.values() if o.between and not o.needs_tree]
seeds, sizes = st.integers(0, 2**32), st.integers(2, 30)


def draw(seed, n, samples=6):
    "Tree text, tree, tips, counts: some tips are no ASV, some ASVs have no tip."
    rng = np.random.default_rng(seed)
    text = random_newick(rng, n)
    names = list(parse_newick(text).tips)
    asvs = list(rng.permutation(names)[:rng.integers(1, n+1)]) + ["x1", "x2"]*int(rng.random() < .5)
    asvs = list(rng.permutation(asvs))
    counts = random_counts(rng, samples, len(asvs))
    tree = parse_newick(text)
    at = {o: i for i, o in enumerate(tree.tips)}
    tip = np.array([at.get(o, -1) for o in asvs])
    return text, tree, tip, asvs, counts


def oracle(metric, text, asvs, tip, counts, **kw):
    from skbio.diversity import beta_diversity
    on, taxa = counts[:, tip >= 0], [o for o, t in zip(asvs, tip) if t >= 0]
    with np.errstate(invalid="ignore"):
        out = beta_diversity(metric, on, taxa=taxa, tree=scikit_bio(text), validate=False, **kw)
    return np.nan_to_num(out.data) # 0/0 where both samples cover no length


@given(seeds, sizes)
@pytest.mark.parametrize("metric, theirs, kw", [("unweighted", "unweighted_unifrac", {}),
                                                ("weighted", "weighted_unifrac", {}),
                                                ("weighted_normalized", "weighted_unifrac",
                                                 dict(normalized=True))])
def test_unifrac_as_scikit_bio(metric, theirs, kw, seed, n):
    text, tree, tip, asvs, counts = draw(seed, n)
    want = oracle(theirs, text, asvs, tip, counts, **kw)
    ours = unifrac(sparse.csr_matrix(counts), tree, tip, metric)
    np.testing.assert_allclose(ours, want, atol=1e-9)
    np.testing.assert_array_equal(ours, ours.T)
    assert (np.diag(ours) == 0).all()
    np.testing.assert_allclose(unifrac_blocks(counts, tree, tip, metric, block=int(seed % 7) + 1), want,
                               atol=1e-9)
    if metric != "weighted": assert ours.max() <= 1


@given(seeds, sizes)
def test_log_weighted_is_a_city_block_of_log_shares(seed, n):
    _, tree, tip, _, counts = draw(seed, n)
    below = branch_abundance(tree, tip, counts)
    on_tree = np.maximum(counts[:, tip >= 0].sum(1, keepdims=True), 1)
    x = np.log1p(1e4*below/on_tree)*tree.length
    want = cdist(x, x, "cityblock")
    np.testing.assert_allclose(unifrac(counts, tree, tip, "log_weighted"), want, atol=1e-8)
    np.testing.assert_allclose(unifrac_blocks(counts, tree, tip, "log_weighted", block=4), want, atol=1e-8)


@given(seeds, sizes)
def test_faith_pd_as_scikit_bio(seed, n):
    from skbio.diversity import alpha_diversity
    text, tree, tip, asvs, counts = draw(seed, n)
    want = alpha_diversity("faith_pd", counts[:, tip >= 0], taxa=[o for o, t in zip(asvs, tip) if t >= 0],
                           tree=scikit_bio(text), validate=False)
    np.testing.assert_allclose(faith_pd(sparse.csr_matrix(counts), tree, tip, block=4), want, atol=1e-9)


def share_below(tree, tip, counts, branch):
    "The share of a sample's reads below a branch, among its reads with a place in the tree."
    inside = [tree.start[branch] <= t < tree.stop[branch] for t in tip]
    below = sum(c for c, o in zip(counts, inside) if o)
    return below/(sum(c for c, t in zip(counts, tip) if t >= 0) or 1)


def generalized(tree, tip, counts, alpha):
    "Chen et al. 2012, equation 2, in plain loops."
    n, out = len(counts), np.zeros((len(counts),)*2)
    for i in range(n):
        for j in range(n):
            above = below = 0.
            for k in range(len(tree.length)):
                x, y = (share_below(tree, tip, counts[s], k) for s in (i, j))
                if x + y > 0:
                    above += tree.length[k]*(x+y)**alpha*abs(x-y)/(x+y)
                    below += tree.length[k]*(x+y)**alpha
            out[i, j] = above/below if below else 0
    return out


@given(seeds, st.integers(2, 10), st.sampled_from([0., .25, .5, .75, 1.]))
def test_generalized_as_its_formula(seed, n, alpha):
    _, tree, tip, _, counts = draw(seed, n, samples=4)
    ours = unifrac(counts, tree, tip, "generalized", alpha)
    np.testing.assert_allclose(ours, generalized(tree, tip, counts.tolist(), alpha), atol=1e-9)
    if alpha == 1:
        np.testing.assert_allclose(ours, unifrac(counts, tree, tip, "weighted_normalized"), atol=1e-12)


@given(seeds, sizes, st.sampled_from(UNIFRACS))
def test_nothing_but_the_community_counts(seed, n, metric):
    "Not the order of ASVs, zero columns, who else is in the batch, stored zeros, or tips that no sample has."
    _, tree, tip, asvs, counts = draw(seed, n)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(tip))
    want = unifrac(counts, tree, tip, metric)
    padded, more = np.pad(counts[:, order], ((0, 0), (0, 3))), np.append(tip[order], [-1, 0, -1])
    np.testing.assert_allclose(unifrac(padded, tree, more, metric), want, atol=1e-12)
    np.testing.assert_allclose(unifrac(counts[1:4], tree, tip, metric), want[1:4, 1:4], atol=1e-12)
    stored = sparse.csr_matrix(np.ones_like(counts))
    stored.data = counts.ravel().copy()
    np.testing.assert_allclose(unifrac(stored, tree, tip, metric), want, atol=1e-12)
    cut, at = shear(tree, asvs)
    np.testing.assert_allclose(unifrac(counts, cut, at, metric), want, atol=1e-12)


def test_a_sample_without_reads_on_the_tree():
    tree, tip = parse_newick("((a:1,b:3):2,c:4);"), np.array([0, 1, 2, -1])
    counts = np.array([[3, 0, 1, 0], [0, 0, 0, 9], [0, 0, 0, 0]])
    for metric in ("unweighted", "weighted_normalized", "generalized"):
        assert unifrac(counts, tree, tip, metric).tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert unifrac(counts, tree, tip, "weighted").tolist() == [[0, 3.25, 3.25], [3.25, 0, 0], [3.25, 0, 0]]
    assert faith_pd(counts, tree, tip).tolist() == [7, 0, 0]
    assert unifrac(counts, tree, np.full(4, -1)).tolist() == np.zeros((3, 3)).tolist()
    assert unifrac(counts[:0], tree, tip).shape == (0, 0) and faith_pd(counts[:0], tree, tip).shape == (0,)


@pytest.mark.parametrize("metric", UNIFRACS)
def test_relative_abundances_give_what_their_reads_give(metric):
    rng = np.random.default_rng(1)
    tree = parse_newick(random_newick(rng, 40))
    counts = random_counts(rng, 6, 40)
    relative = counts/np.maximum(counts.sum(axis=1, keepdims=True), 1)/3
    np.testing.assert_allclose(unifrac(relative, tree, np.arange(40), metric),
                               unifrac(counts, tree, np.arange(40), metric), atol=1e-7)
    np.testing.assert_allclose(faith_pd(relative, tree, np.arange(40)), faith_pd(counts, tree, np.arange(40)),
                               atol=1e-12)


def test_reads_beyond_32_bits_do_not_overflow():
    tree, tip = parse_newick("((a:1,b:3):2,c:4);"), np.arange(3)
    big = np.array([[2**31-1, 2**31-1, 2**31-1], [1, 1, 1]], dtype=np.int32)
    for metric in UNIFRACS: assert unifrac(big, tree, tip, metric)[0, 1] < 1e-12


def test_the_metrics_that_exist():
    tree, tip = parse_newick("(a:1,b:3);"), np.arange(2)
    with pytest.raises(AamError, match="Did you mean 'unweighted'"):
        unifrac(np.eye(2), tree, tip, "unwieghted")
    with pytest.raises(AamError, match="alpha is 1.5"):
        unifrac_blocks(np.eye(2), tree, tip, "generalized", 1.5)
    assert ALONG_TREE == [*UNIFRACS, "faith_pd"]
    assert OF_READS == ["braycurtis", "jaccard", "aitchison", "robust_aitchison"]
    assert [o for o in metrics if o not in ALONG_TREE + OF_READS] == ["precomputed"]


def test_memory_of_a_table_in_blocks_is_bounded():
    rng = np.random.default_rng(0)
    n, asvs = 700, 8000
    tree = parse_newick(random_newick(rng, asvs))
    counts = sparse.random(n, asvs, density=.005, format="csr", random_state=rng,
                           data_rvs=lambda size: rng.integers(1, 9, size))
    tracemalloc.start()
    out = unifrac_blocks(counts, tree, np.arange(asvs), block=64)
    peak = tracemalloc.get_traced_memory()[1] - out.nbytes
    tracemalloc.stop()
    assert peak < 40e6 < n*2*asvs*8/2 # Well below one array of samples by branches


def test_real_samples_as_scikit_bio(data_dir):
    from biom import load_table
    from skbio.diversity import beta_diversity
    table = load_table(str(data_dir/"tiny_ecam60"/"table.biom"))
    path = data_dir/"tiny_ecam60"/"tree.nwk"
    asvs, counts = table.ids("observation"), table.matrix_data.T.tocsr().astype(np.int32)
    tree, tip = shear(read_tree(path), asvs)
    theirs = scikit_bio(path.read_text())
    assert (tip >= 0).all() and (branch_abundance(tree, tip, counts) % 1 == 0).all()
    for metric, name, kw in (("unweighted", "unweighted_unifrac", {}),
                             ("weighted_normalized", "weighted_unifrac", dict(normalized=True))):
        want = beta_diversity(name, counts.toarray(), taxa=asvs, tree=theirs, **kw).data
        np.testing.assert_allclose(unifrac(counts, tree, tip, metric), want, atol=1e-9)
    ready = np.loadtxt(data_dir/"tiny_ecam60"/"unweighted_unifrac.tsv", skiprows=1, usecols=range(1, 61))
    np.testing.assert_allclose(unifrac(counts, tree, tip), ready, atol=1e-6)


# Without a tree.

def by_scipy(metric, counts):
    from scipy.spatial.distance import cdist
    from skbio.stats.composition import clr, rclr
    counts = counts.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "jaccard": return np.nan_to_num(cdist(counts > 0, counts > 0, "jaccard"))
        if metric == "braycurtis":
            p = np.nan_to_num(counts/counts.sum(1, keepdims=True))
            return np.nan_to_num(cdist(p, p, "braycurtis"))
        logs = clr(counts + 1) if metric == "aitchison" else np.nan_to_num(rclr(counts, validate=False))
    return cdist(logs, logs)


@given(seeds, sizes)
@pytest.mark.parametrize("metric", OF_READS)
def test_counts_as_scikit_bio_and_scipy(metric, seed, n):
    rng = np.random.default_rng(seed)
    counts = random_counts(rng, 6, n)
    ours = sample_distances(sparse.csr_matrix(counts), metric)
    np.testing.assert_allclose(ours, by_scipy(metric, counts), atol=1e-6)
    np.testing.assert_array_equal(ours, ours.T)
    assert (np.diag(ours) == 0).all()
    if metric in ("braycurtis", "jaccard"): assert ours.max() <= 1


@pytest.mark.parametrize("metric", ["braycurtis", "jaccard"])
def test_counts_as_scikit_bio_has_them(metric):
    "Its own call, on samples of one depth."
    from skbio.diversity import beta_diversity
    counts = np.random.default_rng(0).multinomial(200, np.random.default_rng(1).dirichlet(np.full(40, .2)), 8)
    want = beta_diversity(metric, counts > 0 if metric == "jaccard" else counts, validate=False).data
    np.testing.assert_allclose(sample_distances(counts, metric), want, atol=1e-9)


@given(seeds, sizes, st.sampled_from(OF_READS))
def test_nothing_but_the_reads_count(seed, n, metric):
    "Not the order of ASVs, columns that the batch lacks, who else is in it, stored zeros or, mostly, depth."
    rng = np.random.default_rng(seed)
    counts = random_counts(rng, 6, n)
    want = sample_distances(counts, metric, asvs=n + 3)
    padded = np.pad(counts[:, rng.permutation(n)], ((0, 0), (0, 3)))
    np.testing.assert_allclose(sample_distances(padded, metric), want, atol=1e-6)
    np.testing.assert_allclose(sample_distances(counts[1:4], metric, asvs=n + 3), want[1:4, 1:4], atol=1e-6)
    stored = sparse.csr_matrix(np.ones_like(counts))
    stored.data = counts.ravel().copy()
    before = stored.copy()
    np.testing.assert_allclose(sample_distances(stored, metric, asvs=n + 3), want, atol=1e-6)
    assert (stored.data == before.data).all() and stored.nnz == before.nnz # What was given is left as it was
    if metric != "aitchison":
        np.testing.assert_allclose(sample_distances(counts*[[1], [2], [3], [5], [1], [9]], metric), want,
                                   atol=1e-6)


@pytest.mark.parametrize("metric, to_other", [("braycurtis", 1), ("jaccard", 1),
                                              ("aitchison", np.log(4)*np.sqrt(2/3)), ("robust_aitchison", 0)])
def test_a_sample_without_reads(metric, to_other):
    counts = np.array([[3, 0, 0], [0, 0, 0], [0, 0, 0]])
    out = sample_distances(counts, metric)
    np.testing.assert_allclose(out, [[0, to_other, to_other], [to_other, 0, 0], [to_other, 0, 0]], atol=1e-9)
    assert sample_distances(counts[:0], metric).shape == (0, 0)


def test_one_call_for_all():
    rng = np.random.default_rng(0)
    tree = parse_newick(random_newick(rng, 12))
    counts = sparse.csr_matrix(random_counts(rng, 5, 12))
    tip = np.arange(12)
    for o in UNIFRACS:
        assert (sample_distances(counts, o, tree, tip, .3) == unifrac(counts, tree, tip, o, .3)).all()
    alone = dict(braycurtis=bray_curtis(counts), jaccard=jaccard(counts), aitchison=aitchison(counts, 20),
                 robust_aitchison=robust_aitchison(counts))
    for o in OF_READS: assert (sample_distances(counts, o, asvs=20) == alone[o]).all()
    pd = faith_pd(counts, tree, tip)
    np.testing.assert_allclose(sample_distances(counts, "faith_pd", tree, tip), abs(pd[:, None] - pd))
    for o in ALONG_TREE:
        with pytest.raises(AamError, match=f"'{o}' needs a tree"): sample_distances(counts, o)
    with pytest.raises(AamError, match="Did you mean 'braycurtis'"): sample_distances(counts, "bray_curtis")
    with pytest.raises(AamError, match="Did you mean 'jaccard'"): sample_distances(counts, "jacard")


def test_real_reads_as_scikit_bio(data_dir):
    from biom import load_table
    counts = load_table(str(data_dir/"tiny_ecam60"/"table.biom")).matrix_data.T.tocsr()
    for o in OF_READS:
        np.testing.assert_allclose(sample_distances(counts, o), by_scipy(o, counts.toarray()), atol=1e-6)
