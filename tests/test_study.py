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
    return Table(counts=sparse.csr_matrix(counts), sample_ids=strings([f"S{i+1}" for i in range(len(counts))]), sequences=strings(ASVS), notes=tuple(notes))


def metadata(ids=("S9", "S4", "S2", "S1", "S3")):
    return pd.DataFrame(dict(age=np.arange(len(ids), dtype=float), site=["gut"]*(len(ids)-1) + ["skin"]), index=list(ids))


TREE = parse_newick("((ACGT:1,ACGA:3):2,(TTTT:4,far:1):1);")


def test_everything_in_table_order_and_nothing_lost_in_silence():
    study = make_study(table(notes=["read with care"]), metadata(), TREE)
    assert list(study.ids) == list(study.metadata.index) == ["S1", "S2", "S3", "S4"] and study.metadata.age.tolist() == [3, 2, 4, 1]
    assert study.tip.tolist() == [0, 1, 2, -1] and list(study.tree.tips) == ASVS[:3] and study.tip.dtype == np.int32
    said = "\n".join(study.notes)
    for o in ("read with care", "1 of 5 metadata rows have no sample", "1 of 4 ASVs, with 12.50% of the reads, are not in the tree",
              "1 of the tree's 4 tips are no ASV", "1 samples have no reads (first: 'S4')", "1 samples have reads, but none on the tree (first: 'S3')"):
        assert o in said
    np.testing.assert_array_equal(study.table.counts.toarray(), table().counts.toarray()) # The sample without reads is still there
    assert unifrac(study.table.counts, study.tree, study.tip)[0, 1] == pytest.approx(1 - (2+4+1)/(1+3+2+4+1))


def test_each_part_is_optional():
    alone = make_study(table())
    assert alone.metadata is None and alone.tree is None and alone.tip is None
    assert make_study(table(), tree=TREE).metadata is None and make_study(table(), metadata()).tree is None


def test_samples_without_metadata():
    with pytest.raises(AamError, match=r"2 of the table's 4 samples have no row in the metadata \(first: 'S1', 'S4'\). Pass missing='drop'"):
        make_study(table(), metadata(("S3", "S2")))
    study = make_study(table(), metadata(("S3", "S2")), missing="drop")
    assert list(study.ids) == ["S2", "S3"] and list(study.table.sequences) == ASVS[1:]
    assert study.notes[0].startswith("2 of 4 samples have no row") and "1 of 4 ASVs have no reads in these samples" in study.notes[1]
    with pytest.raises(AamError, match="None of the table's 4 samples.*'S1'.*'X1'"): make_study(table(), metadata(("X1", "X2")), missing="drop")
    with pytest.raises(AamError, match="missing is 'ignore'"): make_study(table(), metadata(), missing="ignore")
    with pytest.raises(AamError, match="twice in the metadata.*'S2'"): make_study(table(), metadata(("S1", "S2", "S2", "S3", "S4")))


def test_a_choice_of_samples():
    study = make_study(table(), metadata(), TREE, where="age >= 2 and site == gut")
    assert list(study.ids) == ["S1", "S2"] and list(study.table.sequences) == ASVS[:3] and (study.tip >= 0).all()
    assert any("2 of 4 samples were kept, where age >= 2 and site == gut" in o for o in study.notes)
    with pytest.raises(AamError, match="No sample is left where age > 99"): make_study(table(), metadata(), where="age > 99")
    with pytest.raises(AamError, match="there are none"): make_study(table(), where="age > 1")
    with pytest.raises(AamError, match="aeg"): make_study(table(), metadata(), where="aeg > 1")
    with pytest.raises(AamError, match="No reads are left: 1 samples"): make_study(table(), metadata(), where="age == 1")


def test_trees_that_do_not_belong():
    with pytest.raises(AamError, match="None of the table's 4 ASVs .*'ACGT'.*'otu1', 'otu2'"): make_study(table(), tree=parse_newick("(otu1:1,otu2:1);"))


@pytest.mark.parametrize("text, noted", [("((ACGT:1,ACGA:1):1,TTTT:1,GGGG:1);", 3), ("(((ACGT:1,ACGA:1):1,TTTT:1,GGGG:1):5);", 3),
                                         ("(ACGT:1,ACGA:1,TTTT:1,GGGG:1);", 4),
                                         ("((ACGT:1,ACGA:1):1,(TTTT:1,GGGG:1):1);", 0), ("((((ACGT:1,ACGA:1,TTTT:1):1):1,GGGG:1):1):1;", 0)])
def test_a_tree_that_may_have_no_root_is_noted(text, noted):
    said = [o for o in make_study(table(), tree=parse_newick(text)).notes if "may have no root" in o]
    assert (said[0].startswith(f"{noted} branches")) if noted else not said


def test_the_input_is_left_as_it_was():
    a, m, before = table(), metadata(), table().counts.toarray()
    make_study(a, m, TREE, where="site == gut")
    np.testing.assert_array_equal(a.counts.toarray(), before); assert list(m.index) == ["S9", "S4", "S2", "S1", "S3"] and len(TREE.tips) == 4


def test_real_studies(data_dir):
    folder = data_dir/"ecam_infant"
    start = time.perf_counter()
    study = make_study(read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv"), read_tree(folder/"tree.nwk"), where="is_infant == 1")
    assert len(study.ids) == 699 and (study.metadata.is_infant == 1).all() and (study.tip >= 0).all()
    assert any("699 of 741 samples were kept" in o for o in study.notes) and time.perf_counter() - start < 20
    files = data_dir/"qiime2_files"
    study = make_study(read_table(files/"ibd-table.qza"), read_metadata(files/"ibd-metadata.tsv"), read_tree(files/"ibd-tree.qza"), missing="drop")
    assert list(study.metadata.index) == list(study.ids) and len(study.tree.tips) == (study.tip >= 0).sum() > 9000
    assert any("tips are no ASV of the table" in o for o in study.notes)
