"""Count tables: whatever is wrong with a file comes out as one sentence that names it, and real files are
read."""
import hashlib
import io
import json
import time

import h5py
import pytest
from table_forms import FORMS, TINY, qza, same, sound, write_forms

from aam_nb.core import AamError
from aam_nb.data.files import read_qza
from aam_nb.data.table import read_table


@pytest.fixture
def forms(tmp_path):
    "The folder of a table in each form."
    return write_forms(tmp_path)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_table(forms, name):
    t = read_table(forms/name)
    same(t, TINY)
    sound(t)
    assert t.notes == (f"1 of 3 samples of {forms/name} has no reads (first: 'S2')",)


@pytest.mark.parametrize("line, says", [
    ("ACGT\t1\t2", "line 3: wanted a count for each of 3 samples; found 2"),
                                        ("ACGT\t1\t2\t3\t4", "line 3: 4 cells for 3 columns"),
    ("ACGT\t1\t2\t3o", "line 3: sample 'S3' has '3o'"),
    ("ACGT\t1\t\t3", "line 3: sample 'S2' has ''"), ("ACGT\t1\tnan\t3", "line 3: sample 'S2' has 'nan'"),
    ("ACGT\t1\t2\t1e99", "has 1e.99"), ("ACGT\t1\t-2\t3", "has -2"),
    ("ACGT\t.1\t.2\t.7", "relative abundances"),
    ("AAAA\t1\t2\t3", r"feature ids that occur more than once: 'AAAA'"),
    ("\t1\t2\t3", "feature number 2 has no id"),
])
def test_text_tables_that_are_not_sound(tmp_path, line, says):
    (tmp_path/"t.tsv").write_text(f"#OTU ID\tS1\tS2\tS3\nAAAA\t1\t2\t3\n{line}\n")
    with pytest.raises(AamError, match=f"t.tsv.*{says}"): read_table(tmp_path/"t.tsv")


@pytest.mark.parametrize("text, left", [
    ("#OTU ID\tS1\tS2\ttaxonomy\nACGT\t1\t2\tk__B\nAAAA\t0\t3\t\n", "'taxonomy'"),
    ("#OTU ID\tS1\tS2\tFamily\tGenus\nACGT\t1\t2\ta\tb\nAAAA\t0\t3\t\t\n", "'Family', 'Genus'"),
    ("#OTU ID\tS1\tS2\tConfidence\nACGT\t1\t2\t.9\nAAAA\t0\t3\t.8\n", "'Confidence'"),
    ("#OTU ID\tS1\tS2\ttaxonomy\nACGT\t1\t2\tk__B\nAAAA\t0\t3\n", "'taxonomy'"),
    ("# a comment\nfeature\tS1\tS2\n# another\nACGT\t1\t2\nAAAA\t0\t3", None),
    ("#OTU ID\tS1\tS2\t\nACGT\t1\t2\t\nAAAA\t0\t3\t\n", None),
    ("#OTU ID\tS1\tS2\t\nACGT\t1\t2\t7\nAAAA\t0\t3\t\n", "no name"),
])
def test_headers_and_columns_that_are_no_samples(tmp_path, text, left):
    (tmp_path/"t.tsv").write_text(text)
    if left == "no name":
        with pytest.raises(AamError): read_table(tmp_path/"t.tsv")
        return
    t = read_table(tmp_path/"t.tsv")
    assert list(t.sample_ids) == ["S1", "S2"] and t.counts.toarray().tolist() == [[1, 0], [2, 3]]
    note = f"{tmp_path/'t.tsv'}: columns that are not samples were left out ({left})"
    assert t.notes == ((note,) if left else ())


def test_sequences_fold_and_merge(tmp_path):
    (tmp_path/"t.tsv").write_text("#OTU ID\t007\tS2\nacgu\t1\t2\nACGT\t10\t0\nNNRY\t0\t3\n")
    t = read_table(tmp_path/"t.tsv")
    sound(t)
    assert list(t.sequences) == ["ACGT", "NNRY"] and t.counts.toarray().tolist() == [[11, 0], [2, 3]]
    assert list(t.sample_ids) == ["007", "S2"]
    assert "1 sequences" in t.notes[0] and "1 of 3 features" in t.notes[1] and "summed" in t.notes[1]
    (tmp_path/"big.tsv").write_text(f"#OTU ID\tS1\nacgt\t{2**31-1}\nACGT\t1\n")
    with pytest.raises(AamError, match="sum to over 2,147,483,647"): read_table(tmp_path/"big.tsv")


def test_names_need_their_sequences(tmp_path):
    ids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(3)]
    (tmp_path/"t.tsv").write_text("#OTU ID\tS1\tS2\n" + "".join(f"{o}\t{i}\t2\n" for i, o in enumerate(ids)))
    with pytest.raises(AamError, match=r"t.tsv: 3 of 3 feature ids look like hashes \(first: "
                                       r"'[0-9a-f]{32}'\).*sequences='rep-seqs.qza'"):
        read_table(tmp_path/"t.tsv")
    fasta = "".join(f">{o} Bacteria\nACG\nt{b}\n" for o, b in zip(ids, "aac"))
    (tmp_path/"rep.fasta").write_text(fasta)
    qza(tmp_path/"rep.qza", fasta, "FeatureData[Sequence]", "dna-sequences.fasta")
    for name in ("rep.fasta", "rep.qza"):
        t = read_table(tmp_path/"t.tsv", sequences=str(tmp_path/name))
        sound(t)
        assert list(t.sequences) == ["ACGTA", "ACGTC"] and t.counts.toarray().tolist() == [[1, 2], [4, 2]]
        assert len(t.notes) == 1 and "their reads were summed" in t.notes[0]
    (tmp_path/"some.fasta").write_text(f">{ids[1]}\nACGT\n>other\nAAAA\n")
    with pytest.raises(AamError, match=r"some.fasta lacks 2 of the 3 features of .*t.tsv, with 66.7% "
                                       r"of its reads"):
        read_table(tmp_path/"t.tsv", tmp_path/"some.fasta")
    (tmp_path/"none.fasta").write_text(">other\nAAAA\n")
    with pytest.raises(AamError, match="None of the 3 features .* is in .*none.fasta"):
        read_table(tmp_path/"t.tsv", tmp_path/"none.fasta")


def test_sequences_as_names_need_none_but_may_have_them(tmp_path):
    (tmp_path/"t.tsv").write_text("#OTU ID\tS1\nACGT\t1\nAAAA\t2\n")
    (tmp_path/"rep.fasta").write_text(">ACGT\nACGT\n")
    assert list(read_table(tmp_path/"t.tsv", tmp_path/"rep.fasta").sequences) == ["ACGT", "AAAA"]
    (tmp_path/"wrong.fasta").write_text(">ACGT\nCCCC\n")
    with pytest.raises(AamError, match="lacks 1 of the 2"):
        read_table(tmp_path/"t.tsv", tmp_path/"wrong.fasta")


@pytest.mark.parametrize("ids, says", [
    (["ACGT"*10 + "-", "ACGT"], "1 of 2 feature ids have letters that stand for no base .* has '-'"),
    (["OTU_1", "OTU_2"], "2 of 2 feature ids are not sequences.*Pass sequences="),
    (["4479944", "228054"], "'4479944', '228054'.*Pass sequences="),
])
def test_features_that_are_no_sequences(tmp_path, ids, says):
    (tmp_path/"t.tsv").write_text("#OTU ID\tS1\n" + "".join(f"{o}\t3\n" for o in ids))
    with pytest.raises(AamError, match=says): read_table(tmp_path/"t.tsv")


def test_a_table_that_lies_on_its_side(tmp_path):
    (tmp_path/"t.tsv").write_text(f"sample\t{'ACGT'*8}\t{'AACC'*8}\nSample_1\t3\t0\nSample_2\t1\t2\n")
    t = read_table(tmp_path/"t.tsv")
    assert list(t.sample_ids) == ["Sample_1", "Sample_2"] and t.counts.toarray().tolist() == [[3, 0], [1, 2]]
    assert list(t.sequences) == ["ACGT"*8, "AACC"*8] and "the table was turned round" in t.notes[0]


@pytest.mark.parametrize("name",
                         ["tiny_ecam60", "ecam_infant", "ibd_crohns_2538", "cfs87", "global_gut",
                          "hmp_v35_bodysite"])
def test_real_tables(data_dir, name):
    import biom
    path = data_dir/name/"table.biom"
    start = time.perf_counter()
    t = read_table(path)
    took = time.perf_counter() - start
    stats = json.loads((data_dir/name/"stats.json").read_text())
    theirs = biom.load_table(str(path))
    sound(t)
    assert t.counts.shape == (stats["samples"], stats["features"]) and t.counts.nnz == stats["nnz"]
    assert not t.notes
    assert (theirs.matrix_data.T != t.counts).nnz == 0
    assert list(theirs.ids("observation")) == list(t.sequences) and list(theirs.ids()) == list(t.sample_ids)
    assert took < 3 # A tenth of that on a quiet machine


def test_real_artefacts(data_dir):
    import biom
    files = data_dir/"qiime2_files"
    ibd = read_table(files/"ibd-table.qza")
    sound(ibd)
    assert ibd.counts.shape == (470, 10_099) and {len(o) for o in ibd.sequences} == {100}
    with pytest.raises(AamError, match="cfs-table.qza: 2,130 of 2,130 feature ids look like hashes.*Pass "
                                       "sequences="):
        read_table(files/"cfs-table.qza")
    cfs = read_table(files/"cfs-table.qza", files/"cfs-rep-seqs.qza")
    sound(cfs)
    with h5py.File(io.BytesIO(read_qza(files/"cfs-table.qza", "feature-table.biom"))) as f:
        theirs = biom.Table.from_hdf5(f)
    assert (theirs.matrix_data.T != cfs.counts).nnz == 0 and list(theirs.ids()) == list(cfs.sample_ids)
    # The ids are the MD5 sums of the sequences
    hashed = [hashlib.md5(o.encode()).hexdigest() for o in cfs.sequences]
    # All but those that had lower-case letters
    assert sum(a == b for a, b in zip(hashed, theirs.ids("observation"))) >= 2_126
    for wrong in ("cfs-taxonomy.qza", "ibd-tree.qza", "ibd-metadata.tsv", "cfs-map.txt"):
        with pytest.raises(AamError, match=wrong): read_table(files/wrong)
    with pytest.raises(AamError, match=r"holds Phylogeny\[Rooted\]; wanted FeatureData\[Sequence\]"):
        read_table(files/"cfs-table.qza", files/"ibd-tree.qza")
    assert read_qza(files/"ibd-tree.qza", "tree.nwk").startswith(b"(")


def test_a_real_classic_table(data_dir, tmp_path):
    # Old Mac line ends, two '#' lines, a taxonomy column, one feature that is no sequence
    path = data_dir/"qiime2_files"/"small-table.tsv"
    with pytest.raises(AamError, match="1 of 12 feature ids are not sequences .first: 'badfeature'"):
        read_table(path)
    (tmp_path/"t.tsv").write_bytes(b"".join(o + b"\r"
                                            for o in path.read_bytes().split(b"\r")
                                            if not o.startswith(b"badfeature")))
    t = read_table(tmp_path/"t.tsv")
    sound(t)
    assert t.counts.shape == (21, 11) and t.sample_ids[-1] == "badsample" and "'taxonomy'" in t.notes[0]
