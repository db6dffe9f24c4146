"The linear path, against scikit-learn and the tree."
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoder_cases import awake, batch_of, config
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_newick
from scipy import sparse
from sklearn.decomposition import PCA

import aam_nb.model.linear as linear
from aam_nb.core import AamError
from aam_nb.data.tree import branch_abundance, parse_newick
from aam_nb.model.linear import Components, LogComponents, branch_shares
from aam_nb.model.sample_encoder import shares


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def table(n, known, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(rng.gamma(.3, 20, (n, known))))


def batch_from(counts, **given):
    counts = sparse.csr_matrix(counts)
    samples = [dict(zip(r.indices.tolist(), r.data.tolist(), strict=True)) for r in counts]
    return replace(batch_of(samples, counts.shape[1]), place=torch.arange(counts.shape[1]), **given)


def study(n=25, tips=14, known=12, seed=0):
    "Counts, a random tree, and the tip of each ASV: one has none."
    rng = np.random.default_rng(seed)
    tree = parse_newick(random_newick(rng, tips))
    tip = rng.permutation(tips)[:known].astype(np.int32)
    tip[3] = -1
    return table(n, known, seed), tree, tip


@pytest.mark.parametrize("k", [1, 3, 10])
def test_components_equal_scikit_learn(k):
    x = np.random.default_rng(0).normal(size=(30, 50))*np.linspace(1, 4, 50)
    x = x*(np.random.default_rng(1).random((30, 50)) < .5)
    want = PCA(k, whiten=True, svd_solver="full").fit(x)
    part = Components(50, k).double().fit(sparse.csr_matrix(x))
    new = np.random.default_rng(2).normal(size=(5, 50))
    for rows in (x, new):
        got, ref = part(torch.from_numpy(rows)).numpy(), want.transform(rows)
        np.testing.assert_allclose(got*np.sign((got*ref).sum(0)), ref, atol=1e-6)


def test_components_beyond_the_rank_are_zero():
    x = np.random.default_rng(0).normal(size=(30, 2)) @ np.random.default_rng(1).normal(size=(2, 20))
    part = Components(20, 6).double().fit(sparse.csr_matrix(x))
    scores = part(torch.from_numpy(x))
    torch.testing.assert_close(scores.std(0), torch.tensor([1., 1, 0, 0, 0, 0], dtype=torch.float64),
                               rtol=1e-6, atol=1e-6)
    assert not part.loadings[:, 2:].any() and not part.centre[2:].any()
    # Samples that are all alike
    assert not Components(20, 6).fit(sparse.csr_matrix(np.ones((5, 20)))).loadings.any()
    once = np.random.default_rng(0).normal(size=(15, 20))
    twice = np.concatenate([once, once + 1e-5*np.random.default_rng(1).normal(size=once.shape)])
    # What differs between repeats is not blown up
    assert not Components(20, 20).fit(sparse.csr_matrix(twice)).loadings[:, 14:].any()
    two = sparse.csr_matrix(np.random.default_rng(0).random((2, 3)))
    assert Components(3, 6).fit(two).loadings.isfinite().all()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_branch_shares_equal_those_of_the_tree(seed):
    counts, tree, tip = study(n=6, seed=seed)
    R = counts.toarray()/np.maximum(counts.sum(1), 1)
    got = branch_shares(torch.from_numpy(R), *(torch.from_numpy(np.asarray(o, dtype=np.int64))
                                               for o in (tip, tree.start, tree.stop)))
    np.testing.assert_allclose(got, branch_abundance(tree, tip, R), atol=1e-12)


def test_branch_shares_keep_small_numbers_in_single_precision():
    "A branch with 1e-6 of the reads behind 20,000 ASVs with the rest."
    n = 20_000
    R = torch.full((1, n + 1), (1 - 1e-6)/n)
    R[0, -1] = 1e-6
    got = branch_shares(R, torch.arange(n + 1), torch.tensor([n]), torch.tensor([n + 1]))
    assert abs(float(got) - 1e-6) < 1e-9


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_the_linear_path_equals_pca_of_log_abundance(kind):
    counts, tree, tip = study()
    path = LogComponents(config(linear=kind), 2, 12, len(tree.length)).fit(counts, tree, tip)
    R = counts.toarray()/counts.sum(1)
    below = branch_abundance(tree, tip, R)
    made = dict(asvs=np.log1p(np.asarray(R)/1e-4), branches=np.log1p(below/1e-4)*np.sqrt(tree.length))
    want = np.concatenate([PCA(4, whiten=True, svd_solver="full").fit_transform(made[o]) for o in path.kinds],
                          1)
    got = path.scores(batch_from(counts)).numpy()
    np.testing.assert_allclose(got*np.sign((got*want).sum(0)), want, atol=2e-3)


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_the_linear_path_adds_nothing_at_first_and_learns(kind):
    counts, tree, tip = study()
    path = LogComponents(config(linear=kind), 3, 12, len(tree.length)).fit(counts, tree, tip)
    out = path(batch_from(counts))
    assert out.shape == (25, 3) and not out.any()
    (out*torch.randn_like(out)).sum().backward()
    assert bool((path.linear.weight.grad != 0).all())
    assert [k for k, _ in path.named_parameters()] == ["linear.weight"]


def test_the_linear_path_learns_what_ridge_learns():
    "A signal in log abundance, default rate and steps: R2 on new samples near that of ridge."
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    counts = table(300, 12)
    y = np.log1p(np.asarray(counts/counts.sum(1))/1e-4) @ np.random.default_rng(1).normal(size=12)
    y = torch.from_numpy((y - y[:200].mean())/y[:200].std()).float()[:, None]
    path = LogComponents(config(linear="asvs", components=8), 1, 12).fit(counts[:200])
    opt = torch.optim.AdamW(path.parameters(), 1e-3, weight_decay=.05)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 400)
    train, test = batch_from(counts[:200]), batch_from(counts[200:])
    for _ in range(400):
        opt.zero_grad()
        (path(train) - y[:200]).square().mean().backward()
        opt.step()
        rate.step()
    with torch.no_grad(): got = r2_score(y[200:], path(test))
    ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(path.scores(train), y[:200])
    assert got > ridge.score(path.scores(test), y[200:]) - .03 and got > .3


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_unknown_asvs_and_batch_mates_add_nothing_to_the_linear_path(kind):
    counts, tree, tip = study()
    path = awake(LogComponents(config(linear=kind), 2, 12, len(tree.length)).fit(counts, tree, tip))
    whole = batch_from(counts[:6])
    # Other order, and two unknown ASVs
    extra = sparse.hstack([counts[:6, ::-1], sparse.csr_matrix(np.full((6, 2), 50))]).tocsr()
    place = torch.tensor([*range(11, -1, -1), -1, -1])
    with torch.no_grad():
        got = path.scores(replace(batch_from(extra), place=place))
        # Unknown ASVs count among the sample's reads, not among the features
        R = shares(batch_from(extra))[:, :12].flip(1).double().numpy()
        parts = dict(asvs=np.log1p(R/1e-4), branches=np.log1p(branch_abundance(tree, tip,
                                                                               R)/1e-4)*np.sqrt(tree.length))
        want = torch.cat([path.parts[o](torch.from_numpy(parts[o]).float()) for o in path.kinds], 1)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
        alone = torch.cat([path(batch_from(counts[i])) for i in range(6)])
        torch.testing.assert_close(path(whole), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_the_linear_path_is_all_in_its_state(kind):
    counts, tree, tip = study()
    c = config(linear=kind)
    path = awake(LogComponents(c, 2, 12, len(tree.length)).fit(counts, tree, tip))
    again = LogComponents(c, 2, 12, len(tree.length))
    again.load_state_dict(path.state_dict())
    with torch.no_grad(): assert torch.equal(again(batch_from(counts)), path(batch_from(counts)))


def test_so_many_samples_define_the_components(monkeypatch):
    counts, monkey = table(50, 12), 10
    monkeypatch.setattr(linear, "MOST", monkey)
    few = LogComponents(config(linear="asvs"), 1, 12).fit(counts)
    monkeypatch.undo()
    rows = np.linspace(0, 49, monkey).round().astype(int)
    wanted = LogComponents(config(linear="asvs"), 1, 12).fit(counts[rows])
    torch.testing.assert_close(few.parts["asvs"].loadings, wanted.parts["asvs"].loadings)
    assert linear.MOST == 2048


def test_what_the_linear_path_refuses():
    counts, tree, tip = study()
    c = config(linear="both")
    path = LogComponents(c, 1, 12, len(tree.length))
    with pytest.raises(AamError, match="needs a tree"): LogComponents(c, 1, 12)
    with pytest.raises(AamError, match="at least 2 samples with 12 ASVs; found 25 with 11"):
        path.fit(counts[:, :11], tree, tip[:11])
    with pytest.raises(AamError, match="12 ASVs; found 1 with 12"): path.fit(counts[:1], tree, tip)
    with pytest.raises(AamError, match=f"tree of {len(tree.length)} branches; found 0"): path.fit(counts)
    with pytest.raises(AamError, match="`place`"):
        path.fit(counts, tree, tip)(replace(batch_from(counts), place=None))
