"Newick into arrays, cutting, sums over branches, path lengths; scikit-bio is the oracle."
import gzip
import hashlib
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import caterpillar, random_newick, scikit_bio

from aam_nb.core import AamError
from aam_nb.data.tree import branch_abundance, keep_tips, newick, parse_newick, path_lengths, read_tree, shear
from aam_nb.types import Tree



def drawn(seed, n, noise): return random_newick(np.random.default_rng(seed), n, noise)


trees = st.builds(drawn, st.integers(0, 2**32), st.integers(1, 25), st.booleans())


def depths(tree): # By its definition
    return np.array([tree.length[(tree.start <= i) & (tree.stop > i)].sum() for i in range(len(tree.tips))])


@given(trees)
def test_newick_as_scikit_bio_reads_it(text):
    ours, theirs = parse_newick(text), scikit_bio(text)
    tips = list(theirs.tips(include_self=True))
    assert list(ours.tips) == [o.name for o in tips]
    assert set(zip(ours.start.tolist(), ours.stop.tolist())) >= {(i, i+1) for i in range(len(tips))}
    def total(nodes): return sum(o.length or 0 for o in nodes)
    np.testing.assert_allclose(depths(ours), [total([o, *o.ancestors()]) for o in tips], atol=1e-9)
    np.testing.assert_allclose(ours.length.sum(), total(theirs.traverse()), atol=1e-9)
    for i, (start, stop) in enumerate(zip(ours.start, ours.stop)): # A branch comes after all below it
        later, ends = ours.start[i+1:], ours.stop[i+1:]
        assert not ((later >= start) & (ends <= stop) & (ends - later < stop - start)).any()


@given(trees)
def test_written_and_read_again(text):
    tree = parse_newick(text)
    again, theirs = parse_newick(newick(tree)), scikit_bio(newick(tree))
    assert list(again.tips) == list(tree.tips) == [o.name for o in theirs.tips(include_self=True)]
    for name in ("start", "stop", "length"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tree, name))


@pytest.mark.parametrize("text, what", [
    ("", "truncated"), ("   ", "truncated"), ("((a:1,b:1):1,c:1)", "truncated"), ("((a:1,b:1", "truncated"),
    ("hello", "truncated"),
    ("(a:1,b:1));", "no bracket is open at this ')'"), ("a:1,b:1;", "no bracket is open at this ','"),
    ("(a:1,b:1", "brackets still open: 1. Is the file truncated?"),
    ("((a:1,b:1);", "brackets still open: 1."),
    ("(a:1,b:1);(c:1,d:1);", "text after the ';'"), ("(a:1,b:1); x", "text after the ';'"),
    ("(a:1,,b:1);", "tip without a name"), ("();", "tip without a name"),
    ("(a:1,'':1);", "tip without a name"), (";", "tip without a name"),
    ("(a:1,b:x);", "'x' is not a branch length"), ("(a:1,b:nan);", "not a branch length"),
    ("(a:1,b:inf);", "not a branch length"), ("(a:1,b:1e999);", "not a branch length"),
    ("(a:,b:1);", "no length after"), ("(a:1:2,b:1);", "second ':'"),
    ("(a b:1,c:1);", "'b' found where"), ("(a:1 2,c:1);", "'2' found where"),
    ("('a:1,b:1);", "found where"), ("(a'b:1,c:1);", "found where"), ("(a]:1,b:1);", "']' found where"),
    ("#NEXUS begin trees; tree x = (a,b);", "found where"), ("(a:1,b:1)[x;", "never closed"),
    ("(a:1(b:1,c:1));", "a '(' where"), ("(a:1,(b:1)(c:1));", "a '(' where"),
    ("(a:1,b:1,a:2);", "more than once among the tree's 3 tips: 'a'"),
    ("(a,b,(c,d));", "length above 0 (branches: 5)"), ("(a:0,b:-1);", "length above 0 (branches: 2)"),
    ("a;", "length above 0 (branches: 1)"),
])
def test_refused(text, what):
    with pytest.raises(AamError) as e: parse_newick(text)
    assert what in str(e.value) and len(str(e.value)) < 400


@given(trees, st.data())
def test_every_truncation_is_refused(text, data):
    cut = data.draw(st.integers(0, len(text.rstrip()) - 1))
    with pytest.raises(AamError): parse_newick(text[:cut])


@given(trees, st.data())
@settings(max_examples=200)
def test_damage_gives_an_error_of_ours_or_a_tree(text, data):
    at = data.draw(st.integers(0, len(text)-1))
    new = data.draw(st.sampled_from("()[]',:; ax1-e\n\0é"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: assert isinstance(parse_newick(text[:at] + new + text[at+1:]), Tree)
        except AamError: pass


def test_lengths_missing_or_negative_count_as_zero_and_say_so():
    tree = parse_newick("((a:1,b):1,c:1);")
    assert tree.notes == ("Branches without a length, counted as 0: 1 of the tree's 4",)
    assert tree.length.tolist() == [1, 0, 1, 1]
    tree = parse_newick("((a:1,b:-1):-1e-9,c:1);")
    assert tree.notes == ("Branches with a negative length, counted as 0: 2 of the tree's 4",)
    assert tree.length.tolist() == [1, 0, 0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_newick("((a:1,b:1):1,c:1);").notes == ()
        parse_newick("((a:1,b):1,c:-1);") # A note, and no warning of Python
        assert len(parse_newick("((a:1,b:1):1,c:1);").length) == 4   # The root's own branch is not missed
        assert parse_newick("((a:1,b:1):1,c:1):5;").length[-1] == 5  # and counts where it is given
        assert parse_newick("a:2;").length.tolist() == [2]


def test_time_is_linear_and_depth_is_free():
    def seconds(text):
        t = time.perf_counter()
        newick(parse_newick(text))
        return time.perf_counter() - t
    rng = np.random.default_rng(0)
    small, large = random_newick(rng, 5000), random_newick(rng, 50_000)
    a, b, c = seconds(small), seconds(large), seconds(caterpillar(100_000))
    assert b < 25*a + 1 and b < 15 and c < 15 # Ten times the text, about ten times the time


@pytest.mark.parametrize("text", [
    "'"*300_001, "("*300_000, "["*300_000, "(a"+" "*300_000+"b);", "("+"''"*150_000, "(" + "'a'"*100_001,
    "'a"*200_001, "[a]"*200_000 + "'["])
def test_hostile_text_is_refused_quickly(text):
    t = time.perf_counter()
    with pytest.raises(AamError): parse_newick(text)
    assert time.perf_counter() - t < 5


@given(trees, st.data())
def test_paths_as_scikit_bio_measures_them(text, data):
    ours, theirs = parse_newick(text), scikit_bio(text)
    n = len(ours.tips)
    pick = np.array(data.draw(st.lists(st.integers(-1, n-1), min_size=1, max_size=12)))
    out = path_lengths(ours, pick)
    names = [o.name for o in theirs.tips(include_self=True)]
    want = theirs.cophenet().filter(names).data if n > 1 else np.zeros((1, 1))
    want = np.where((pick[:, None] < 0) | (pick < 0), np.nan, want[np.ix_(pick, pick)])
    np.testing.assert_allclose(out, want, atol=1e-9)
    np.testing.assert_array_equal(np.diag(out), np.where(pick < 0, np.nan, 0))


def test_rounding_gives_no_path_below_zero():
    for seed in range(20):
        tree = parse_newick(random_newick(np.random.default_rng(seed), 300))
        assert path_lengths(tree, np.arange(300)).min() == 0


@given(trees, st.data())
def test_a_cut_keeps_depths_and_paths(text, data):
    tree = parse_newick(text)
    n = len(tree.tips)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    cut, where = keep_tips(tree, keep)
    assert list(cut.tips) == list(tree.tips[keep])
    np.testing.assert_array_equal(where[keep], np.arange(keep.sum()))
    assert (where[~keep] == -1).all()
    np.testing.assert_allclose(depths(cut), depths(tree)[keep], atol=1e-9)
    paths = path_lengths(tree, np.flatnonzero(keep))
    np.testing.assert_allclose(path_lengths(cut, np.arange(len(cut.tips))), paths, atol=1e-9)
    spans = list(zip(cut.start.tolist(), cut.stop.tolist()))
    assert len(set(spans)) == len(spans)
    assert len(spans) <= max(2*keep.sum(), 1) # At most one branch a fork, one a tip, and a stem
    if not keep.any(): return
    again = parse_newick(newick(cut))
    np.testing.assert_array_equal(again.start, cut.start)
    np.testing.assert_array_equal(again.stop, cut.stop)


def test_shear_finds_tips_by_sequence_case_rna_and_hash():
    asvs = ["ACGTT", "GGGTT", "CCCTT", "AAATT", "TTTTT"]
    md5, sha1 = hashlib.md5(b"ACGTT").hexdigest(), hashlib.sha1(b"CCCTT").hexdigest()
    tree = parse_newick(f"(({md5}:1,gggtt:1):1,other:9,({sha1}:1,AAAUU:1):1);")
    cut, tip = shear(tree, asvs)
    assert tip.tolist() == [0, 1, 2, 3, -1] and tip.dtype == np.int32 and len(cut.tips) == 4
    assert shear(tree, ["TTTTT"])[1].tolist() == [-1] and len(shear(tree, [])[1]) == 0


@given(trees, st.integers(0, 2**32))
def test_branch_sums_as_a_walk_over_the_tree_gives_them(text, seed):
    rng, tree, theirs = np.random.default_rng(seed), parse_newick(text), scikit_bio(text)
    names = [o.name for o in theirs.tips(include_self=True)]
    tip = rng.permutation(np.concatenate([np.arange(len(names)), [-1, -1]])) # Two ASVs have no tip
    counts = rng.integers(0, 2**31-1, (3, len(tip)), dtype=np.int64)*(rng.random((3, len(tip))) < .5)
    ours = branch_abundance(tree, tip, counts.astype(np.int32))
    reads = {names[t]: counts[:, i] for i, t in enumerate(tip) if t >= 0}
    def below(node): return sum(reads[o.name] for o in node.tips(include_self=True))
    def key(rows): return sorted(tuple(map(float, o)) for o in rows if o[0] > 0)
    walk = [(o.length or 0, *below(o)) for o in theirs.traverse(include_self=True)]
    assert key(np.column_stack([tree.length, ours.T])) == key(walk)


def test_branch_sums_refuse_a_tip_list_of_another_table():
    tree = parse_newick("(a:1,b:1);")
    with pytest.raises(AamError, match="3 ASVs, but tips are given for 2"):
        branch_abundance(tree, np.array([0, 1]), np.ones((1, 3)))


def test_files(tmp_path):
    text = "((id1:1,id2:3):2,id3:4);"
    path, packed, fasta = tmp_path/"tree.nwk", tmp_path/"tree.nwk.gz", tmp_path/"seqs.fasta"
    path.write_text("\ufeff[&R] " + text)
    assert list(read_tree(path).tips) == ["id1", "id2", "id3"]
    packed.write_bytes(gzip.compress(text.encode()))
    assert len(read_tree(packed).tips) == 3
    fasta.write_text(">id1\nACGT\n>id2\nACGA\n>other\nTTTT\n")
    assert list(read_tree(path, fasta).tips) == ["ACGT", "ACGA", "id3"]
    fasta.write_text(">id1\nACGT\n>id3\nACGT\n") # Two ids of one sequence: the first tip has its name
    assert list(read_tree(path, fasta).tips) == ["ACGT", "id2", "id3"]
    fasta.write_text(">x1\nACGT\n")
    with pytest.raises(AamError, match="None of the tree's tips"): read_tree(path, fasta)


@pytest.mark.parametrize("name, data", [
    ("a.qza", b"((id1:1,id2:3):2,id3:4);"), ("a.nwk", b"PK\x03\x04 and more"),
    ("b.nwk", b"\x89HDF\r\n\x1a\n"), ("c.nwk", b""),
    ("d.nwk", b"(\xff:1,b:1);"), ("e.nwk", b"(a:1,b:"), ("f.nwk", b"sample_id\tage\nS1\t3\n"),
    ("absent.nwk", None)])
def test_a_file_that_holds_no_tree_is_named(name, data, tmp_path):
    if data is not None: (tmp_path/name).write_bytes(data)
    with pytest.raises(AamError, match=name): read_tree(tmp_path/name)


def test_a_reference_tree_from_an_artefact(data_dir):
    "The 217,407 tips that QIIME 2 users have, cut to the study, give the tree prepared by other means."
    t = time.perf_counter()
    whole = read_tree(data_dir/"qiime2_files"/"ibd-tree.qza")
    seconds = time.perf_counter() - t
    ready = read_tree(data_dir/"ibd_crohns_2538"/"tree.nwk")
    cut, tip = shear(whole, ready.tips)
    same, tip2 = shear(ready, ready.tips)
    assert len(whole.tips) == 217_407 and (tip >= 0).all() and seconds < 30
    some = np.arange(0, len(ready.tips), 50)
    np.testing.assert_allclose(path_lengths(cut, tip[some]), path_lengths(same, tip2[some]), atol=1e-9)
