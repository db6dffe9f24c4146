"A simulated study holds the truths it promises, and files of it are read by everybody."
import time

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import accuracy_score, r2_score

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.split import kfold, strata
from aam_nb.data.subjects import subject_like
from aam_nb.data.tree import branch_abundance, newick, path_lengths
from aam_nb.types import Study, Table, strings


@pytest.fixture(scope="module")
def study(): return simulate(200, 400, groups=40)


def relative(study): return study.table.counts.toarray()/study.table.depths[:, None]


def out_of_fold(study, x, y, model, folds=4):
    out = np.empty(len(y), dtype=y.dtype)
    for train, test in kfold(study.ids, folds, study.metadata.subject, strata(y)):
        a, b = study.positions(train), study.positions(test)
        out[b] = model.fit(x[a], y[a]).predict(x[b])
    return out


def forest(kind=RandomForestRegressor): return kind(40, max_features=.2, min_samples_leaf=2, random_state=0)


def test_it_is_deterministic_and_fast():
    begin = time.process_time()
    a = simulate(200, 400, groups=40, seed=3)
    took = time.process_time() - begin
    assert took < 2
    b, c = simulate(200, 400, groups=40, seed=3), simulate(200, 400, groups=40, seed=4)
    assert (a.table.counts != b.table.counts).nnz == 0 and a.metadata.equals(b.metadata)
    assert newick(a.tree) == newick(b.tree)
    assert list(a.table.sequences) == list(b.table.sequences) != list(c.table.sequences)
    assert not a.metadata.age.equals(c.metadata.age)


@pytest.mark.parametrize("sizes", [
    dict(samples=2, asvs=2, groups=1, length=20, depth=1),
    dict(samples=9, asvs=5, groups=9, length=20),
    dict(samples=12, asvs=20, groups=4, length=24, depth=50),
    dict(samples=50, asvs=700, groups=7, length=20),
])
def test_every_size_makes_a_valid_study(sizes):
    study = simulate(**sizes)
    table = study.table
    assert sparse.isspmatrix_csr(table.counts) and table.counts.dtype == np.int32
    assert table.counts.data.min() > 0
    assert len(table.sample_ids) == sizes["samples"] == len(study.metadata)
    assert (study.metadata.index == study.ids).all()
    assert (table.depths > 0).all() and len(set(table.sequences)) == len(table.sequences) <= sizes["asvs"]
    assert {len(o) for o in table.sequences} == {sizes["length"]}
    assert not set("".join(table.sequences)) - set("ACGT")
    assert list(study.tree.tips[study.tip]) == list(table.sequences), "every ASV is a tip of the true tree"
    assert (study.tree.length >= 0).all() and study.metadata.subject.nunique() == sizes["groups"]
    assert study.metadata.age.between(0, 24).all() and set(study.metadata.site) <= {"gut", "mouth", "skin"}


def test_bad_sizes_are_refused_together():
    wanted = "samples is 1; wanted 2 .*groups is 0; wanted 1 .*length is 3; wanted 20"
    with pytest.raises(AamError, match=wanted):
        simulate(1, groups=0, length=3)
    with pytest.raises(AamError, match="samples x asvs is"): simulate(100_000, 100_000)


def test_distances_from_bases_follow_the_true_tree(study):
    bases = np.array([list(o.encode()) for o in study.table.sequences])
    differ = (bases[:, None] != bases).mean(-1)
    at = np.triu_indices(len(bases), 1)
    jc = -.75*np.log(np.maximum(1 - 4/3*differ[at], 1e-3))
    path = path_lengths(study.tree, study.tip)[at]
    assert np.corrcoef(jc, path)[0, 1] > .75 and stats.spearmanr(jc, path).statistic > .6
    near = path < np.quantile(path, .03) # the sequences evolved for as long as the tree says
    assert .6 < np.median(jc[near]/path[near]) < 1.2


def test_a_forest_learns_age_and_site_of_new_subjects(study):
    x, age, site = relative(study), study.metadata.age.to_numpy(), study.metadata.site.to_numpy()
    assert .55 < r2_score(age, out_of_fold(study, x, age, forest())) < .9
    assert accuracy_score(site, out_of_fold(study, x, site, forest(RandomForestClassifier))) > .75


def test_clades_know_more_than_single_asvs(study):
    below = branch_abundance(study.tree, study.tip, study.table.counts)/study.table.depths[:, None]
    x = np.log1p(below/1e-4)*np.sqrt(study.tree.length)
    age = study.metadata.age.to_numpy()
    ridge = r2_score(age, out_of_fold(study, x, age, RidgeCV(np.logspace(-1, 4, 6))))
    assert ridge > .7
    def best(x): return np.nanmax(abs(np.corrcoef(np.log(x.T + 1e-4), age)[-1, :-1]))
    assert best(below) > best(relative(study)) + .15


def test_permuted_labels_and_depth_give_no_skill(study):
    x, rng = relative(study), np.random.default_rng(0)
    age = rng.permutation(study.metadata.age.to_numpy())
    site = rng.permutation(study.metadata.site.to_numpy())
    assert r2_score(age, out_of_fold(study, x, age, forest())) < .1
    assert accuracy_score(site, out_of_fold(study, x, site, forest(RandomForestClassifier))) < .45
    depth = np.log(study.table.depths)[:, None]
    age, site = study.metadata.age.to_numpy(), study.metadata.site.to_numpy()
    assert r2_score(age, out_of_fold(study, depth, age, forest())) < .1
    assert accuracy_score(site, out_of_fold(study, depth, site, forest(RandomForestClassifier))) < .45


def test_depth_is_independent_of_age_site_and_subject_over_seeds():
    p = []
    for seed in range(12):
        s = simulate(150, 30, groups=15, length=20, seed=seed)
        m, depth = s.metadata, s.table.depths
        p += [stats.spearmanr(depth, m.age).pvalue,
              stats.kruskal(*[depth[m.site == o] for o in set(m.site)]).pvalue,
              stats.kruskal(*[depth[m.subject == o] for o in set(m.subject)]).pvalue]
    assert min(p) > .05/len(p) and np.mean(np.array(p) < .05) < .2
    assert abs(np.median(simulate(2000, 10, groups=50, length=20).table.depths)/5000 - 1) < .1


def test_samples_of_one_subject_resemble_each_other(study):
    x = np.log(relative(study) + 1e-4)
    who = study.metadata.subject.to_numpy()
    near = np.corrcoef(x)
    same = who[:, None] == who
    np.fill_diagonal(same, False)
    other = ~same
    np.fill_diagonal(other, False)
    assert near[same].mean() > near[other].mean() + .2


def test_noise_makes_it_harder_and_leaves_tree_and_people():
    a, b = simulate(noise=.5), simulate(noise=3)
    assert newick(a.tree) == newick(b.tree) and a.metadata.equals(b.metadata)
    def score(s):
        y = s.metadata.age.to_numpy()
        return r2_score(y, out_of_fold(s, relative(s), y, forest(), 3))
    assert score(a) > score(b) + .2


def test_only_the_subject_looks_like_a_subject():
    for seed in range(4):
        m = simulate(60, 20, groups=20, length=20, seed=seed).metadata
        assert [o for o, _ in subject_like(m)] == ["subject"]
        assert subject_like(m.drop(columns="subject")) == []
    assert subject_like(simulate(40, 20, groups=40, length=20).metadata) == [], "one sample a subject"


# files

def test_files_are_read_by_biom_scikit_bio_and_pandas(tmp_path):
    import biom
    import skbio
    study = simulate(30, 60, groups=10, seed=5)
    folder = write_study(study, tmp_path/"deep"/"study")
    table = biom.load_table(str(folder/"table.biom"))
    assert list(table.ids("sample")) == list(study.ids)
    assert list(table.ids("observation")) == list(study.table.sequences)
    assert (table.matrix_data.T != study.table.counts).nnz == 0
    tree = skbio.TreeNode.read(str(folder/"tree.nwk"))
    assert {o.name for o in tree.tips()} == set(study.table.sequences)
    pick = [0, 7, 33, 51]
    names = study.table.sequences[pick]
    theirs = tree.shear(names).cophenet()
    ours = path_lengths(study.tree, study.tip[pick])
    assert np.allclose(theirs.filter(names).data, ours)
    metadata = pd.read_csv(folder/"metadata.tsv", sep="\t", index_col="sample-id")
    assert metadata.equals(study.metadata.rename_axis("sample-id"))


def test_our_readers_give_the_study_back(study, tmp_path):
    from aam_nb.data.metadata import read_metadata
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    folder = write_study(study, tmp_path)
    again = make_study(read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv"),
                       read_tree(folder/"tree.nwk"))
    assert (again.table.counts != study.table.counts).nnz == 0
    assert list(again.table.sequences) == list(study.table.sequences)
    assert list(again.metadata.subject) == list(study.metadata.subject)
    assert np.array_equal(again.metadata.age, study.metadata.age)
    assert np.allclose(path_lengths(again.tree, again.tip), path_lengths(study.tree, study.tip))
    assert not again.notes and not study.notes


def test_text_that_looks_like_numbers_stays_text(tmp_path):
    from aam_nb.data.metadata import read_metadata
    table = Table(counts=sparse.csr_matrix(np.ones((3, 1), dtype=np.int32)), sample_ids=strings("abc"),
                  sequences=strings(["ACGT"]))
    metadata = pd.DataFrame({"host": ["01", "02", None], "age": [1.5, np.nan, 3],
                             "note": ["a\"b", "c d", None], "empty": [None]*3}, index=list("abc"))
    folder = write_study(Study(table=table, metadata=metadata), tmp_path)
    assert not (folder/"tree.nwk").exists() and "#q2:types" in (folder/"metadata.tsv").read_text()
    again = read_metadata(folder/"metadata.tsv")
    assert list(again.host[:2]) == ["01", "02"] and pd.isna(again.host["c"]) and again.age["a"] == 1.5
    assert again.note["a"] == "a\"b"
    plain = write_study(Study(table=table), tmp_path/"plain")
    assert [o.name for o in plain.iterdir()] == ["table.biom"]


def test_a_place_that_cannot_be_a_folder_is_refused(study, tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(AamError, match="file"): write_study(study, tmp_path/"file"/"study")
