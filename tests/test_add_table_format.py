"A table format from outside the package: one record, named in an override, read to a prediction."
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from aam_nb.core import AamError
from aam_nb.data.raw import RawTable
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.table import TableFormat, read_table
from aam_nb.recipe import load_config
from aam_nb.registry import registered, table_formats
from aam_nb.runs.train import train_run

SHORT = ["pretrain_asv.steps=4", "pretrain_asv.every=2", "optim.steps=6", "optim.every=3", "optim.batch=8",
         "model.width=16", "model.layers=1", "model.sample_width=16", "run.threads=1"]
HEAD = "sample;sequence;reads"


def read_long(data, path):
    "A table in long form: a line for each sample and sequence that has reads."
    rows = [o.split(";") for o in data.decode().splitlines()[1:]]
    samples, features = sorted({o[0] for o in rows}), sorted({o[1] for o in rows})
    at = [samples.index(o[0]) for o in rows], [features.index(o[1]) for o in rows]
    reads = np.array([float(o[2]) for o in rows])
    return RawTable(sparse.csr_matrix((reads, at), shape=(len(samples), len(features))), samples, features)


def recognises(head, path): return head.startswith(HEAD.encode())


LONG = TableFormat(name="long", title="long form (.csv)", recognises=recognises, read=read_long)
NAMED = TableFormat(name="named", title="the same, but only where it is named", recognises=lambda head,
                    path: False,
                    read=read_long)


def long_lines(table):
    "A table as the lines of its long form."
    counts = table.counts.tocoo()
    places = zip(counts.row, counts.col, counts.data, strict=True)
    return [HEAD] + [f"{table.sample_ids[i]};{table.sequences[j]};{n}" for i, j, n in places]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "The folder of a small simulated study, with its table in long form too."
    folder = tmp_path_factory.mktemp("study")
    simulated = simulate(samples=40, asvs=40, groups=10, length=40, seed=8)
    write_study(simulated, folder)
    (folder/"table.csv").write_text("\n".join(long_lines(simulated.table)) + "\n")
    return folder


def trained(study, out, *words):
    "The predictions of the held-out samples of a short training."
    files = [f"data.metadata={study}/metadata.tsv", f"data.tree={study}/tree.nwk", "data.target=age",
             "data.groups=subject", f"run.out={out}"]
    train_run(load_config(None, (*files, *SHORT, *words)), say=lambda text: None)
    return pd.read_csv(out/"predictions.tsv", sep="\t")


def test_a_format_named_in_an_override_is_read_to_a_prediction(study, tmp_path):
    with registered(table_formats, NAMED):
        found = trained(study, tmp_path/"long", f"data.table={study}/table.csv", "data.format=named")
    wanted = trained(study, tmp_path/"biom", f"data.table={study}/table.biom")
    pd.testing.assert_frame_equal(found, wanted)


def test_a_format_that_recognises_its_files_needs_no_name(study):
    with registered(table_formats, LONG): found = read_table(study/"table.csv")
    wanted = read_table(study/"table.biom")
    order = np.argsort(wanted.sequences)
    assert found.sequences.tolist() == wanted.sequences[order].tolist()
    assert (found.counts != wanted.counts[:, order]).nnz == 0
    assert read_table(study/"table.biom").sequences.tolist() == wanted.sequences.tolist()


def test_an_unknown_format_is_refused_with_the_known_ones(study):
    with pytest.raises(AamError, match="data.format names 'lang'.*hdf5"):
        load_config(None, (f"data.table={study}/table.csv", "data.format=lang"))
    with pytest.raises(AamError, match="cannot be read|no header|not sequences|not text|table"):
        read_table(study/"table.csv")
