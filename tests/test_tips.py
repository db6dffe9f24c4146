"Trees whose tips are ids of ASVs, OTUs or reference sequences, as other programs write them."
import hashlib

import numpy as np
import pytest
from typer.testing import CliRunner

from aam_nb.batches.cache import Cache, cached_tree
from aam_nb.cli import app
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tips import name_tips, plain_tip
from aam_nb.data.tree import newick, parse_newick, path_lengths, read_tree

ASVS = [f"ASV{i}" for i in range(1, 21)]
GREENGENES = [str(4479944 + 17*i) for i in range(20)]
VSEARCH = [f"OTU_{i};size={9*i + 1}" for i in range(20)]


@pytest.fixture(scope="module")
def study(): return simulate(samples=24, asvs=20, groups=8, length=60, seed=4)


def files(folder, study, ids, tips=None, fasta=None, extra=0):
    "A table, metadata, sequences and a tree in which ASV `i` is `ids[i]`, or `tips[i]`, or `fasta[i]`."
    sequences = list(study.table.sequences)
    rows = ["\t".join(["#OTU ID", *study.ids])]
    counts = study.table.counts.toarray().T
    rows += ["\t".join([name, *map(str, row)]) for name, row in zip(ids, counts, strict=False)]
    (folder/"table.tsv").write_text("\n".join(rows) + "\n")
    named = zip(fasta or ids, sequences, strict=False)
    (folder/"asvs.fna").write_text("".join(f">{k}\n{v}\n" for k, v in named))
    study.metadata.to_csv(folder/"metadata.tsv", sep="\t", index_label="sample-id")
    name_of = dict(zip(sequences, tips or ids, strict=False))
    text = newick(study.tree)
    for sequence, name in name_of.items(): text = text.replace(sequence, f"'{name}'")
    for i in range(extra): text = f"({text[:-1]}:.1,'spare{i}':.3);"
    (folder/"tree.nwk").write_text(text)
    return [f"--{k}={folder/v}" for k, v in {"table": "table.tsv", "metadata": "metadata.tsv",
                                             "sequences": "asvs.fna", "tree": "tree.nwk"}.items()]


def aam(*words): return CliRunner().invoke(app, [str(o) for o in words])


@pytest.mark.parametrize("ids, tips, extra", [
    (ASVS, None, 0), (GREENGENES, None, 30), (ASVS, [f"{o};size=7;" for o in ASVS], 0),
    ([f"Otu_{i:03d}" for i in range(20)], [f"Otu {i:03d}" for i in range(20)], 2),
    (ASVS, [f'"{o}"' for o in ASVS], 0)])
def test_a_tree_of_the_tables_ids_is_that_of_its_asvs(study, ids, tips, extra, tmp_path):
    words = files(tmp_path, study, ids, tips, extra=extra)
    table = read_table(tmp_path/"table.tsv", tmp_path/"asvs.fna")
    found = make_study(table, tree=read_tree(tmp_path/"tree.nwk", tmp_path/"asvs.fna"))
    order = [list(found.table.sequences).index(o) for o in study.table.sequences]
    np.testing.assert_allclose(path_lengths(found.tree, found.tip[order]),
                               path_lengths(study.tree, study.tip), atol=1e-9)
    done = aam("inspect", *words, "--target", "age")
    assert done.exit_code == 0, done.stderr
    assert "19 tips; it covers 19 of 19 ASVs and 100.0% of the reads" in done.output


SMALL = ["optim.steps=4", "pretrain_asv.steps=4", "pretrain_sample.steps=0", "run.folds=2", "run.inner=2"]
NAMED = ["--target", "age", "--groups", "subject", *SMALL]


@pytest.mark.parametrize("name, more", [
    ("cache store", []), ("pretrain", SMALL), pytest.param("train", NAMED, marks=pytest.mark.slow),
    pytest.param("evaluate", NAMED, marks=pytest.mark.slow)])
def test_every_command_that_takes_a_tree_names_its_tips(study, name, more, tmp_path):
    words = files(tmp_path, study, ASVS, extra=3)
    done = aam(*name.split(), *words, *more, "--out", tmp_path/"out")
    assert done.exit_code == 0, done.stderr
    assert "Tree(19 tips" in done.output


def test_a_tree_of_sequences_stays_beside_a_fasta_of_names(study, tmp_path):
    "One file of sequences names the rows of the table; the tips need no names."
    sequences = list(study.table.sequences)
    hashes = [hashlib.md5(o.encode()).hexdigest() for o in sequences]
    for tips in (sequences, hashes):
        words = files(tmp_path, study, ASVS, tips)
        assert "19 of 19 ASVs" in aam("inspect", *words).output


def test_ids_of_one_sequence_are_one_asv_with_the_first_tip(tmp_path):
    (tmp_path/"t.tsv").write_text("#OTU ID\tS1\tS2\na\t3\t1\nb\t2\t0\nc\t0\t4\n")
    (tmp_path/"s.fna").write_text(">a\nACGTACGT\n>b\nACGTACGT\n>c\nACGGGGGT\n")
    for text, length in (("((a:1,c:1):1,b:5);", 2), ("((b:5,c:1):1,a:1);", 6)):
        (tmp_path/"t.nwk").write_text(text)
        tree = read_tree(tmp_path/"t.nwk", tmp_path/"s.fna")
        assert len(tree.notes) == 1
        assert "1 tip of the tree has the sequence of an earlier tip" in tree.notes[0]
        found = make_study(read_table(tmp_path/"t.tsv", tmp_path/"s.fna"), tree=tree)
        assert (found.tip >= 0).all() and tree.notes[0] in found.notes
        assert path_lengths(found.tree, found.tip)[0, 1] == length
        again = read_tree(tmp_path/"t.nwk", tmp_path/"s.fna")
        assert list(again.tips) == list(tree.tips)


def test_ids_that_become_alike_keep_apart():
    known = {"a b": "ACGT", "a_b": "ACGA", "c;size=2": "AAAA"}
    assert name_tips(["a b", "a_b", "c"], known)[0] == ["ACGT", "ACGA", "AAAA"]
    with pytest.raises(AamError, match="None of the tree's tips"): name_tips(["'a b;size=3'"], known)
    assert plain_tip("'OTU 12;size=120;ee=.3;'") == "OTU_12"


def test_strange_tips_are_named_with_what_would_fit():
    known = {f"ASV{i}": "ACGT"*4 + "A"*i for i in range(9)}
    with pytest.raises(AamError, match="All 9 would match if upper and lower case are the same: 'asv0' is"):
        name_tips([f"asv{i}" for i in range(9)], known)


def test_the_cache_tells_sequences_apart(tmp_path):
    cache = Cache(tmp_path/"cache")
    (tmp_path/"t.nwk").write_text("((a:1,b:-1):1,c:1);")
    (tmp_path/"one.fna").write_text(">a\nAAAA\n>b\nCCCC\n")
    (tmp_path/"two.fna").write_text(">a\nCCCC\n>b\nAAAA\n")
    for _ in range(2):
        found = [cached_tree(cache, tmp_path/"t.nwk", o and tmp_path/o) for o in (None, "one.fna", "two.fna")]
        assert [",".join(o.tips) for o in found] == ["a,b,c", "AAAA,CCCC,c", "CCCC,AAAA,c"]
        assert all(o.notes == read_tree(tmp_path/"t.nwk").notes != () for o in found)


@pytest.mark.parametrize("length", ["1_0", "nan", "inf", "-Infinity", "1e999", "٣", "0x10"])
def test_odd_lengths_are_refused_with_their_place(length):
    with pytest.raises(AamError, match="at character"): parse_newick(f"((a:{length},b:1):1,c:1);")


@pytest.mark.parametrize("length, value", [("1e-3", .001), ("+2", 2), (".5", .5), ("5.", 5), ("1E+2", 100)])
def test_lengths_as_programs_write_them(length, value):
    assert parse_newick(f"(a:{length},b:1);").length[0] == value


def test_double_quotes_are_quotes():
    text = '(("ASV 1":1,"b,[c](d)\'s":2):1,"it""s":1,e"f:1,\'g"h\':1);'
    assert list(parse_newick(text).tips) == ["ASV 1", "b,[c](d)'s", 'it"s', 'e"f', 'g"h']


def test_nexus_is_named(tmp_path):
    (tmp_path/"t.nex").write_text("#NEXUS\nbegin trees;\ntranslate 1 a, 2 b;\ntree x = (1:1,2:1);\nend;\n")
    with pytest.raises(AamError, match="t.nex is a NEXUS file; wanted a tree in Newick format"):
        read_tree(tmp_path/"t.nex")
