"Known facts of real studies, found by the parts that users rely on."
import pytest

from aam_nb.data.metadata import read_metadata
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.evaluation.depth import depth_alarm


@pytest.mark.parametrize("table, metadata, samples, auc", [
    ("ibd_crohns_2538/table.biom", "ibd_crohns_2538/metadata.tsv", 449,
     .986), # samples of 1,000 reads and more
    ("qiime2_files/ibd-table.qza", "qiime2_files/ibd-metadata.tsv", 470, .959)]) # shallow samples too
def test_reads_alone_tell_crohns_from_control(data_dir, table, metadata, samples, auc):
    study = make_study(read_table(data_dir/table), read_metadata(data_dir/metadata), missing="drop")
    here, alarm = study.metadata["ibd"].notna(), depth_alarm(study, study.metadata["ibd"], "auto", 0)
    assert alarm.fires and alarm.measure == "AUC" and alarm.value == pytest.approx(auc, abs=5e-4)
    assert alarm.samples == samples == here.sum()
