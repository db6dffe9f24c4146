"A tree for a study without one: ASVs beside the genes of a reference that they are most like."
from io import StringIO

import numpy as np
import pytest
from reference_folder import at_tips, gene, study
from scipy import sparse

from aam_nb.core import AamError
from aam_nb.data.distances import sample_distances
from aam_nb.data.placed import nearest_tips, placed_tree, word_distance, words_in
from aam_nb.data.reference import Reference
from aam_nb.data.regions import amplicons, other_strand, REGIONS
from aam_nb.data.tip_set import find_tips, read_tips, SHIPPED, some_tips, write_tips
from aam_nb.data.tree import newick, path_lengths, shear
from aam_nb.types import strings

RANDOM = np.random.default_rng(3)


def made_up(n, length=150): return ["".join(o) for o in RANDOM.choice([*"ACGT"], (n, length))]


def with_changes(sequence, places):
    "A sequence with other bases at some places."
    turn = dict(zip("ACGT", "CGTA", strict=True))
    return "".join(turn[o] if i in places else o for i, o in enumerate(sequence))


@pytest.fixture(scope="module")
def tips():
    made = study(genes=40)
    return some_tips(Reference(genes=strings([gene(o) for o in at_tips(made)]), tree=made.tree))


@pytest.fixture(scope="module")
def shipped(): return read_tips(find_tips("reference"))


def test_a_window_of_a_gene_stands_at_its_tip_on_either_strand(tips):
    for at in (30, 300, 480):
        every = [o[at:at + 150] for o in tips.genes]
        rows = np.array([i for i, o in enumerate(every) if every.count(o) == 1])
        windows = [every[i] for i in rows]
        found, share = nearest_tips([*windows, *map(other_strand, windows)], tips)
        assert len(rows) > 20 and list(found) == [*rows]*2 and (share == 1).all()
        tree, tip = shear(placed_tree(windows, tips), windows)
        np.testing.assert_allclose(path_lengths(tree, tip), path_lengths(tips.tree, rows), atol=1e-9)


def test_windows_of_shipped_genes_stand_at_their_tips(shipped):
    "806R is cut off the shipped genes, so it is put back for the search for the regions."
    rows, end = RANDOM.permutation(len(shipped.genes))[:100], other_strand("GGACTACAAGGGTATCTAAT")
    genes = [shipped.genes[i] + end for i in rows]
    cut = {o: i for region in REGIONS for i, o in zip(rows, amplicons(genes, region), strict=True) if o}
    cut = {o[:150]: i for o, i in cut.items() if set(o[:150]) <= {*"ACGT"}}
    assert len(cut) > 120
    found, share = nearest_tips([*cut], shipped)
    assert (share == 1).all() and np.mean(found == [*cut.values()]) > .6
    for (window, row), at in zip(cut.items(), found, strict=True):
        if at == row: continue
        own, other = words_in([window, shipped.genes[at]])
        assert at < row and own.multiply(other).sum() == own.sum(), "an earlier gene has all of its words"


def test_unifrac_along_a_placed_tree_is_that_of_scikit_bio(tips):
    from skbio import TreeNode
    from skbio.diversity import beta_diversity
    asvs = [o[i:i + 120] for o in tips.genes for i in (40, 41, 300)][:60]
    asvs = sorted({*asvs, *(with_changes(o, {20, 70}) for o in asvs[:20])})
    counts = RANDOM.poisson(.8, (12, len(asvs)))
    tree = placed_tree(asvs, tips)
    tree, tip = shear(tree, asvs)
    theirs = TreeNode.read(StringIO(newick(tree)))
    for metric, name in (("unweighted", "unweighted_unifrac"), ("weighted", "weighted_unifrac")):
        want = beta_diversity(name, counts, taxa=asvs, tree=theirs, validate=False).data
        found = sample_distances(sparse.csr_matrix(counts), metric, tree, tip)
        np.testing.assert_allclose(found, want, atol=1e-8)


def test_sisters_are_as_far_apart_as_their_words_say(tips):
    gene = tips.genes[5][100:250]
    asvs = [gene, with_changes(gene, {75}), with_changes(gene, {30, 100}), tips.genes[9][100:250]]
    found, share = nearest_tips(asvs, tips)
    assert list(found) == [5, 5, 5, 9] and share[0] == 1 > share[1] > share[2]
    own, apart = word_distance(share), path_lengths(tips.tree, np.array([5, 9]))[0, 1]
    tree, tip = shear(placed_tree(asvs, tips), asvs)
    far = path_lengths(tree, tip)
    np.testing.assert_allclose([far[0, 1], far[1, 2]], [own[1], own[1] + own[2]])
    np.testing.assert_allclose(far[[0, 1, 2], 3], apart + own[:3])
    assert abs(own[1] - 1/150) < .002, "one of 150 bases"


def test_what_is_near_none_is_named_and_has_no_place(shipped):
    real, nonsense = [shipped.genes[i][400:550] for i in (10, 20)], made_up(200)
    tree = placed_tree([*nonsense[:30], *real, *nonsense[30:]], shipped)
    assert set(tree.tips) == set(real)
    assert "200 of 202 ASVs" in tree.notes[1] and nonsense[0][:30] in tree.notes[1]
    assert "CC BY-SA 3.0" in tree.notes[0] and "Greengenes" in tree.notes[0]


def test_nonsense_alone_is_refused(tips):
    for o in (made_up(6), ["ACGT"], ["N"*150]):
        with pytest.raises(AamError, match=f"{len(o)} of {len(o)} ASVs .* Are these reads of the 16S gene"):
            placed_tree(o, tips)
    with pytest.raises(AamError, match="There are no ASVs"): placed_tree([], tips)


def test_the_order_of_asvs_changes_nothing(tips):
    asvs = [with_changes(o[40:190], {int(i)}) for i, o in enumerate(tips.genes)]
    one, other = placed_tree(asvs, tips), placed_tree(asvs[::-1], tips)
    far = [path_lengths(t, shear(t, asvs)[1]) for t in (shear(o, asvs)[0] for o in (one, other))]
    np.testing.assert_allclose(*far)


def test_the_shipped_tips_are_small_and_say_their_licence(shipped):
    path = SHIPPED/"reference.tips.xz"
    assert path.stat().st_size < 1e6 and len(shipped.genes) == 10_000
    for o in ("CC BY-SA 3.0", "Greengenes", "ismej.2011.139"): assert o in shipped.source
    assert "reference.tips.xz" in (SHIPPED/"NOTICE.md").read_text()
    assert (shipped.tree.length >= 0).all() and all(600 <= len(o) < 1000 for o in shipped.genes)


def test_a_damaged_file_is_refused(tips, tmp_path):
    import lzma
    path = write_tips(tmp_path/"some.tips.xz", tips)
    data = path.read_bytes()
    for o in (data[:-20], b"", lzma.compress(b"one line"), lzma.compress(b"a\n(1:.1,2:.1);\nACGT\n"),
              lzma.compress(b"a\n(((;\nACGT\n"), lzma.compress("a\n(1:.1);\nÄ\n".encode())):
        path.write_bytes(o)
        with pytest.raises(AamError, match="some.tips.xz"): read_tips(path)
    with pytest.raises(AamError, match="no file"): read_tips(tmp_path/"none.tips.xz")


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    assert find_tips("reference") == SHIPPED/"reference.tips.xz"
    for o in ("tree.nwk", "", "../shipped/reference", "nothing"): assert find_tips(o) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path/"reference").write_text("(a:1,b:1);")
    assert find_tips("reference") is None


def test_tips_and_lengths_come_back_from_a_file(tips, tmp_path):
    again = read_tips(write_tips(tmp_path/"some.tips.xz", tips))
    assert list(again.genes) == list(tips.genes) and again.source == tips.source
    every = np.arange(len(tips.genes))
    np.testing.assert_allclose(path_lengths(again.tree, every), path_lengths(tips.tree, every), atol=1e-9)
