"Known facts of real studies, found by the parts that users rely on."
import pytest

from aam_nb.data.metadata import read_metadata
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.evaluation.again import ask_again
from aam_nb.evaluation.depth import depth_alarm
from aam_nb.evaluation.evaluation import drawn_whole
from aam_nb.evaluation.scores import with_ends
from aam_nb.evaluation.validate import PlainFolds, Plan


@pytest.mark.parametrize("table, metadata, samples, auc", [
    ("ibd_crohns_2538/table.biom", "ibd_crohns_2538/metadata.tsv", 449,
     .986), # samples of 1,000 reads and more
    ("qiime2_files/ibd-table.qza", "qiime2_files/ibd-metadata.tsv", 470, .959)]) # shallow samples too
def test_reads_alone_tell_crohns_from_control(data_dir, table, metadata, samples, auc):
    study = make_study(read_table(data_dir/table), read_metadata(data_dir/metadata), missing="drop")
    here, alarm = study.metadata["ibd"].notna(), depth_alarm(study, study.metadata["ibd"], "auto", 0)
    assert alarm.fires and alarm.measure == "AUC" and alarm.value == pytest.approx(auc, abs=5e-4)
    assert alarm.samples == samples == here.sum()


# Of the table in the README of the studies: a plain scikit-learn forest, 500 trees, five folds, seed 42
REFERENCE = [
    ("tiny_ecam60", "month_of_life", None, "mae", 3.47, .5), ("cfs87", "Subject", None, "auc", .756, .05),
    pytest.param("ecam_infant", "month_of_life", "host_subject_id", "mae", 2.74, .15, marks=pytest.mark.slow),
    pytest.param("ecam_infant", "delivery", "host_subject_id", "auc", .739, .06, marks=pytest.mark.slow)]


@pytest.mark.parametrize("name, target, groups, score, value, noise", REFERENCE)
def test_our_forest_agrees_with_one_made_elsewhere(data_dir, name, target, groups, score, value, noise):
    "On our folds it is as good, up to the luck of the folds, and its interval holds the reference."
    where = "is_infant == 1" if name == "ecam_infant" else ""
    study = make_study(read_table(data_dir/name/"table.biom"), read_metadata(data_dir/name/"metadata.tsv"),
                       where=where)
    group = None if groups is None else study.metadata[groups]
    folds = PlainFolds(study, study.metadata[target], Plan(groups=group, threads=1))
    made = ask_again(folds, ("forest",), {}, "forest")
    found, low, high = with_ends(score, made.score("forest"), drawn_whole(made.ids, made.groups))
    assert found == pytest.approx(value, abs=noise) and low < value < high
