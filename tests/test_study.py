"Joining table, metadata and tree: what stays, in which order, and what is said about the rest."
import time

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from aam_nb.core import AamError
from aam_nb.data.distances import unifrac
from aam_nb.data.metadata import read_metadata
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import parse_newick, read_tree
from aam_nb.types import Table, strings

ASVS = ["ACGT", "ACGA", "TTTT", "GGGG"]


def table(counts=((3, 0, 1, 0), (0, 5, 5, 0), (0, 0, 0, 2), (0, 0, 0, 0)), notes=()):
    counts = np.array(counts, dtype=np.int32)
    ids = strings([f"S{i+1}" for i in range(len(counts))])
    counts = sparse.csr_matrix(counts)
    return Table(counts=counts, sample_ids=ids, sequences=strings(ASVS), notes=tuple(notes))


def metadata(ids=("S9", "S4", "S2", "S1", "S3")):
    site = ["gut"]*(len(ids)-1) + ["skin"]
    return pd.DataFrame(dict(age=np.arange(len(ids), dtype=float), site=site), index=list(ids))


TREE = parse_newick("((ACGT:1,ACGA:3):2,(TTTT:4,far:1):1);")


def test_everything_in_table_order_and_nothing_lost_in_silence():
    study = make_study(table(notes=["read with care"]), metadata(), TREE)
    assert list(study.ids) == list(study.metadata.index) == ["S1", "S2", "S3", "S4"]
    assert study.metadata.age.tolist() == [3, 2, 4, 1]
    assert study.tip.tolist() == [0, 1, 2, -1] and study.tip.dtype == np.int32
    assert list(study.tree.tips) == ASVS[:3]
    assert study.notes == (
        "read with care", "Metadata rows without a sample in the table: 1 of 5",
        "Samples without reads: 1 (first: 'S4')",
        "Not in the tree, so not in distances along it: 1 of 4 ASVs, with 12.50% of the reads",
        "Cut off 1 of the tree's 4 tips: no such ASV in the table",
        "Samples that have reads, but none on the tree: 1 (first: 'S3')")
    assert (study.table.counts.toarray() == table().counts.toarray()).all() # With the empty sample
    assert unifrac(study.table.counts, study.tree, study.tip)[0, 1] == pytest.approx(1 - (2+4+1)/(1+3+2+4+1))


def test_each_part_is_optional():
    alone = make_study(table())
    assert alone.metadata is None and alone.tree is None and alone.tip is None
    assert make_study(table(), tree=TREE).metadata is None and make_study(table(), metadata()).tree is None


def test_samples_without_metadata():
    with pytest.raises(AamError, match=r"2 of the table's 4 samples \(first: 'S1', 'S4'\).*missing='drop'"):
        make_study(table(), metadata(("S3", "S2")))
    study = make_study(table(), metadata(("S3", "S2")), missing="drop")
    assert list(study.ids) == ["S2", "S3"] and list(study.table.sequences) == ASVS[1:]
    assert study.notes == ("Left out 2 of 4 samples: no row in the metadata (first: 'S1', 'S4')",
                           "Left out 1 of 4 ASVs: no reads in these samples")
    with pytest.raises(AamError, match="None of the table's 4 samples.*'S1'.*'X1'"):
        make_study(table(), metadata(("X1", "X2")), missing="drop")
    with pytest.raises(AamError, match="missing is 'ignore'"):
        make_study(table(), metadata(), missing="ignore")
    with pytest.raises(AamError, match="more than one row in the metadata: 'S2'"):
        make_study(table(), metadata(("S1", "S2", "S2", "S3", "S4")))


def test_a_choice_of_samples():
    study = make_study(table(), metadata(), TREE, where="age >= 2 and site == gut")
    assert list(study.ids) == ["S1", "S2"]
    assert list(study.table.sequences) == ASVS[:3] and (study.tip >= 0).all()
    assert "Kept 2 of 4 samples, where age >= 2 and site == gut" in study.notes
    with pytest.raises(AamError, match="No sample is left where age > 99"):
        make_study(table(), metadata(), where="age > 99")
    with pytest.raises(AamError, match="no metadata are given. Give metadata"):
        make_study(table(), where="age > 1")
    with pytest.raises(AamError, match="aeg"): make_study(table(), metadata(), where="aeg > 1")
    with pytest.raises(AamError, match=r"No reads are left \(samples: 1"):
        make_study(table(), metadata(), where="age == 1")


def test_trees_that_do_not_belong():
    other = parse_newick("(otu1:1,otu2:1);")
    with pytest.raises(AamError, match="None of the table's 4 ASVs .*'ACGT'.*'otu1', 'otu2'"):
        make_study(table(), tree=other)


@pytest.mark.parametrize("text, noted", [
    ("((ACGT:1,ACGA:1):1,TTTT:1,GGGG:1);", 3), ("(((ACGT:1,ACGA:1):1,TTTT:1,GGGG:1):5);", 3),
    ("(ACGT:1,ACGA:1,TTTT:1,GGGG:1);", 4), ("((ACGT:1,ACGA:1):1,(TTTT:1,GGGG:1):1);", 0),
    ("((((ACGT:1,ACGA:1,TTTT:1):1):1,GGGG:1):1):1;", 0)])
def test_a_tree_that_may_have_no_root_is_noted(text, noted):
    said = [o for o in make_study(table(), tree=parse_newick(text)).notes if "may have no root" in o]
    assert (said[0].startswith(f"{noted} branches")) if noted else not said


def test_the_input_is_left_as_it_was():
    a, m, before = table(), metadata(), table().counts.toarray()
    make_study(a, m, TREE, where="site == gut")
    np.testing.assert_array_equal(a.counts.toarray(), before)
    assert list(m.index) == ["S9", "S4", "S2", "S1", "S3"] and len(TREE.tips) == 4


def test_real_studies(data_dir):
    folder = data_dir/"ecam_infant"
    start = time.perf_counter()
    study = make_study(read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv"),
                       read_tree(folder/"tree.nwk"), where="is_infant == 1")
    assert len(study.ids) == 699 and (study.metadata.is_infant == 1).all() and (study.tip >= 0).all()
    assert any("Kept 699 of 741 samples" in o for o in study.notes) and time.perf_counter() - start < 20
    files = data_dir/"qiime2_files"
    study = make_study(read_table(files/"ibd-table.qza"), read_metadata(files/"ibd-metadata.tsv"),
                       read_tree(files/"ibd-tree.qza"), missing="drop")
    assert list(study.metadata.index) == list(study.ids)
    assert len(study.tree.tips) == (study.tip >= 0).sum() > 9000
    assert any("tips: no such ASV in the table" in o for o in study.notes)
