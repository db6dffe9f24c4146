"""Count tables: equal to biom-format's own reading, and whatever is wrong with a file comes out as one
sentence that names it."""
import gzip
import hashlib
import io
import json
import stat
import time
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.files import load, read_qza, sniff
from aam_nb.data.sequences import LETTERS, read_sequences
from aam_nb.data.table import read_table
from aam_nb.types import Table, strings


def table(counts, samples=None, sequences=None):
    counts = sparse.csr_matrix(np.asarray(counts, dtype=np.int32))
    n, m = counts.shape
    bases = np.array(list("ACGT"))
    return Table(counts=counts, sample_ids=strings(samples or [f"S{i}" for i in range(n)]),
                 sequences=strings(sequences or ["".join(bases[[(i >> 2*k) & 3 for k in range(8)]])
                                                 for i in range(m)]))


TINY = table([[3, 0, 1], [0, 5, 5], [0, 0, 0]])


def same(a, b):
    assert (a.counts != b.counts).nnz == 0 and a.counts.shape == b.counts.shape
    assert list(a.sample_ids) == list(b.sample_ids) and list(a.sequences) == list(b.sequences)


def sound(t):
    "What a `Table` promises."
    assert t.counts.dtype == np.int32 and t.counts.has_canonical_format and (t.counts.data > 0).all()
    assert t.counts.nnz
    assert t.counts.shape == (len(t.sample_ids), len(t.sequences)) and t.counts.indices.dtype == np.int32
    for o in (t.sample_ids, t.sequences):
        assert o.dtype == object and len(set(o)) == len(o) and all(type(x) is str and x for x in o)
    assert not set("".join(t.sequences)) - set(LETTERS)


def as_json(t, dense=False):
    c = t.counts.T.tocoo()
    data = t.counts.T.toarray().tolist() if dense else [[int(i), int(j), int(v)]
                                                        for i, j, v in zip(c.row, c.col, c.data)]
    return dict(id=None, format="Biological Observation Matrix 1.0.0",
                matrix_type="dense" if dense else "sparse", shape=list(c.shape), data=data,
                rows=[dict(id=o, metadata=None) for o in t.sequences],
                columns=[dict(id=o, metadata=None) for o in t.sample_ids])


def as_tsv(t, end="\n"):
    rows = [f"{s}\t" + "\t".join(map(str, r)) for s, r in zip(t.sequences, t.counts.T.toarray())]
    return end.join(["# Constructed from biom file", "#OTU ID\t" + "\t".join(t.sample_ids), *rows, ""])


def qza(path, data, kind="FeatureTable[Frequency]", member="feature-table.biom", **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("6e4d/metadata.yaml", f"uuid: 6e4d\ntype: {kind}\nformat: any\n")
        z.writestr(f"6e4d/data/{member}", data)
        for name, content in more.items(): z.writestr(f"6e4d/{name.replace('__', '.')}", content)
    return path


@pytest.fixture
def forms(tmp_path):
    "The same table in each form."
    write_table(TINY, tmp_path/"t.biom")
    (tmp_path/"old.biom").write_text(json.dumps(as_json(TINY)))
    (tmp_path/"dense.json").write_text(json.dumps(as_json(TINY, dense=True)))
    (tmp_path/"t.tsv").write_text(as_tsv(TINY))
    (tmp_path/"mac.txt").write_bytes(as_tsv(TINY, "\r").encode("utf-8-sig"))
    (tmp_path/"t.tsv.gz").write_bytes(gzip.compress(as_tsv(TINY, "\r\n").encode()))
    (tmp_path/"t.biom.gz").write_bytes(gzip.compress((tmp_path/"t.biom").read_bytes()))
    qza(tmp_path/"t.qza", (tmp_path/"t.biom").read_bytes())
    qza(tmp_path/"old.qza", (tmp_path/"old.biom").read_bytes())
    return tmp_path


FORMS = ["t.biom", "old.biom", "dense.json", "t.tsv", "mac.txt", "t.tsv.gz", "t.biom.gz", "t.qza", "old.qza"]


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_table(forms, name):
    t = read_table(forms/name)
    same(t, TINY)
    sound(t)
    assert t.notes == (f"1 of 3 samples of {forms/name} has no reads (first: 'S2')",)


def test_what_is_written_biom_reads_and_the_other_way_round(tmp_path):
    import biom
    rng = np.random.default_rng(0)
    ours = table(rng.integers(0, 4, (7, 2500)) * (rng.random((7, 2500)) < .2)) # Several chunks of ids
    write_table(ours, tmp_path/"a.biom")
    theirs = biom.load_table(str(tmp_path/"a.biom"))
    assert (theirs.matrix_data.T != ours.counts).nnz == 0
    assert list(theirs.ids("observation")) == list(ours.sequences)
    assert list(theirs.ids()) == list(ours.sample_ids)
    with h5py.File(tmp_path/"b.biom", "w") as f: theirs.to_hdf5(f, "a test", compress=False)
    (tmp_path/"c.biom").write_text(theirs.to_json("a test"))
    (tmp_path/"d.tsv").write_text(theirs.to_tsv())
    for name in ("a.biom", "b.biom", "c.biom", "d.tsv"): same(read_table(tmp_path/name), ours)


@given(st.data())
def test_any_table_survives(tmp_path_factory, data):
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    cells = data.draw(st.lists(st.sampled_from([0, 0, 1, 7, 2**31 - 1]), min_size=n*m,
                               max_size=n*m).filter(any))
    samples = data.draw(st.lists(st.text("aé0. #'\"-", min_size=1,
                                         max_size=5).map(str.strip).filter(lambda o: o), min_size=n,
                                 max_size=n, unique=True))
    sequences = data.draw(st.lists(st.text(LETTERS, min_size=1, max_size=9), min_size=m, max_size=m,
                                   unique=True))
    t = table(np.reshape(cells, (n, m)), samples, sequences)
    path = tmp_path_factory.getbasetemp()/"any.biom"
    write_table(t, path)
    same(read_table(path), t)


@pytest.mark.parametrize("kind", ["fixed", "shuffled", "plain", "numbers"])
def test_ids_however_they_are_stored(tmp_path, kind):
    """Strings of one length, ids that are numbers, and those that HDF5 keeps in heaps, over several chunks
    or in one piece."""
    n = 300
    samples = [str(1000 + i) for i in range(n)]
    t = table(np.ones((n, 2)), samples)
    write_table(t, tmp_path/"t.biom")
    how = dict(compression="gzip", shuffle=True, chunks=(64,)) if kind == "shuffled" else {}
    with h5py.File(tmp_path/"t.biom", "a") as f:
        del f["sample/ids"]
        value = np.array(samples, "S") if kind == "fixed" else np.arange(1000,
                                                                         1000
                                                                         + n) if kind == "numbers" else samples
        f.create_dataset("sample/ids", data=value, **how,
                         **({} if kind in ("fixed", "numbers") else dict(dtype=h5py.string_dtype())))
    same(read_table(tmp_path/"t.biom"), t)


@pytest.mark.parametrize("lzf", [False, True])
def test_a_dataset_that_cannot_be_followed_is_refused(tmp_path, lzf):
    write_table(TINY, tmp_path/"t.biom")
    write_table(TINY, tmp_path/"other.biom")
    with h5py.File(tmp_path/"t.biom", "a") as f:
        del f["sample/ids"]
        if lzf:
            f.create_dataset("sample/ids", data=["S0", "S1", "S2"], dtype=h5py.string_dtype(),
                             compression="lzf", chunks=(3,))
        else: f["sample/ids"] = h5py.ExternalLink(str(tmp_path/"other.biom"), "sample/ids")
    with pytest.raises(AamError, match="t.biom is HDF5, but not a sound BIOM 2.1 table: .*(wanted is gzip|it "
                                       "has no dataset|points outside)"):
        read_table(tmp_path/"t.biom")


def h5_with(path, **change):
    "A BIOM file with some of its arrays replaced."
    write_table(TINY, path)
    with h5py.File(path, "a") as f:
        for name, value in change.items():
            del f[f"sample/{name.replace('__', '/')}"]
            if value is not None: f[f"sample/{name.replace('__', '/')}"] = value
    return path


@pytest.mark.parametrize("change, says", [
    (dict(matrix__indices=np.array([0, 2, 1, 99])), "features that are not among its 3"),
    (dict(matrix__indices=np.array([0, 2, 1, -1])), "not among its 3"),
    (dict(matrix__indptr=np.array([0, 3, 1, 4])), "do not divide into 3 samples"),
    (dict(matrix__indptr=np.array([0, 2, 4])), "do not divide"),
    (dict(matrix__indices=np.array([0, 0, 1, 2])), "counts a feature of a sample twice"),
    (dict(matrix__data=None), "no dataset 'sample/matrix/data'"),
    (dict(matrix__data=np.ones((2, 2))), "2 dimensions"),
    (dict(matrix__data=np.array([b"a", b"b", b"c", b"d"])), r"dimensions of type \|S1"),
    (dict(matrix__data=np.array([1, .5, 2, 3])), "feature 'GAAAAAAA' has 0.5|feature '.*' has 0.5.*relative "
                                                 "abundances"),
    (dict(matrix__data=np.array([1, -5, 2, 3.])), "has -5.*log ratios"),
    (dict(matrix__data=np.array([1, np.nan, 2, 3])), "has nan"),
    (dict(matrix__data=np.array([1, 3e9, 2, 3])), "has 3e.09.*2,147,483,647"),
    (dict(matrix__data=np.zeros(4)), "empty table"),
    (dict(ids=["S0", "S1", "S0"]), r"sample ids occur more than once \('S0'\)"),
    (dict(ids=["S0", "", "S2"]), "sample number 2 has no id"),
])
def test_hdf5_that_is_not_sound(tmp_path, change, says):
    with pytest.raises(AamError, match=f"bad.biom.*({says})"):
        read_table(h5_with(tmp_path/"bad.biom", **change))


def test_hdf5_cannot_claim_more_than_it_holds(tmp_path):
    write_table(TINY, tmp_path/"bomb.biom")
    with h5py.File(tmp_path/"bomb.biom", "a") as f:
        del f["sample/matrix/data"]
        f.create_dataset("sample/matrix/data", shape=10**12, dtype="f8", chunks=10**6)
    with pytest.raises(AamError, match="claims 8,000,000,000,000 bytes"): read_table(tmp_path/"bomb.biom")


def test_a_file_is_what_it_holds_and_says_so(forms):
    def refused(source, name, says):
        (forms/name).write_bytes(source if isinstance(source, bytes) else (forms/source).read_bytes())
        with pytest.raises(AamError, match=says) as e: read_table(forms/name)
        assert name in str(e.value)
    refused("t.tsv", "a.biom", "named '.biom' but holds plain text")
    refused("t.biom", "a.qza", "named '.qza' but holds HDF5")
    refused("t.qza", "a.tsv", "named '.tsv' but holds a zip")
    refused("old.biom", "a.txt", "named '.txt' but holds JSON")
    refused(b">asv1\nACGT\n", "a.tsv", "holds FASTA sequences; wanted a count table")
    refused(b"", "empty.biom", "holds nothing at all")
    refused(b"((a:1,b:2):3);", "tree.biom", "a Newick tree")
    refused(b"<html>404</html>", "page.biom", "a web page")
    refused(b"\0\1\2", "x", "no kind known")
    refused("\ufeff#OTU ID\tS1\n".encode("utf-16-le"), "excel.txt", "UTF-16")
    refused(b"@read\nACGT\n+\nIIII\n", "reads.txt", "FASTQ")
    refused(b"#OTU ID,S1\nACGT,3\n", "a.csv", "Separated by commas")
    refused(b"{}", "a.json", "not a BIOM 1.0 table")
    refused(b"{", "b.json", "cannot be read as BIOM 1.0")
    for name in FORMS: assert read_table(forms/name) # Nothing was changed
    with pytest.raises(AamError, match="is a folder"): read_table(forms)
    with pytest.raises(AamError, match="There is no file .*absent.biom"): read_table(forms/"absent.biom")


@pytest.mark.parametrize("name", ["t.biom", "t.qza", "t.biom.gz", "t.tsv.gz", "old.biom"])
def test_every_truncation_is_said(forms, name):
    data = (forms/name).read_bytes()
    cut = forms/f"cut-{name}"
    for n in np.linspace(0, len(data) - 1, 40).astype(int):
        cut.write_bytes(data[:n])
        with pytest.raises(AamError, match="cut-"): read_table(cut)


@pytest.mark.parametrize("line, says", [
    ("ACGT\t1\t2", "line 3: 2 counts for 3 samples"), ("ACGT\t1\t2\t3\t4", "line 3: 4 cells for 3 columns"),
    ("ACGT\t1\t2\t3o", "line 3: sample 'S3' has '3o'"),
    ("ACGT\t1\t\t3", "line 3: sample 'S2' has ''"), ("ACGT\t1\tnan\t3", "has nan"),
    ("ACGT\t1\t2\t1e99", "has 1e.99"), ("ACGT\t1\t-2\t3", "has -2"),
    ("ACGT\t.1\t.2\t.7", "relative abundances"),
    ("AAAA\t1\t2\t3", r"feature ids occur more than once \('AAAA'\)"),
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
    ("#OTU ID\tS1\tS2\t\nACGT\t1\t2\t\nAAAA\t0\t3\t\n", "no name"),
])
def test_headers_and_columns_that_are_no_samples(tmp_path, text, left):
    (tmp_path/"t.tsv").write_text(text)
    if left == "no name":
        with pytest.raises(AamError): read_table(tmp_path/"t.tsv")
        return
    t = read_table(tmp_path/"t.tsv")
    assert list(t.sample_ids) == ["S1", "S2"] and t.counts.toarray().tolist() == [[1, 0], [2, 3]]
    assert t.notes == ((f"columns {left} of {tmp_path/'t.tsv'} left out: they are no samples",) if left
                       else ())


def test_sequences_fold_and_merge(tmp_path):
    (tmp_path/"t.tsv").write_text("#OTU ID\t007\tS2\nacgu\t1\t2\nACGT\t10\t0\nNNRY\t0\t3\n")
    t = read_table(tmp_path/"t.tsv")
    sound(t)
    assert list(t.sequences) == ["ACGT", "NNRY"] and t.counts.toarray().tolist() == [[11, 0], [2, 3]]
    assert list(t.sample_ids) == ["007", "S2"]
    assert "1 sequences" in t.notes[0] and "1 of 3 features" in t.notes[1] and "summed" in t.notes[1]
    (tmp_path/"big.tsv").write_text(f"#OTU ID\tS1\nacgt\t{2**31-1}\nACGT\t1\n")
    with pytest.raises(AamError, match="sum to more than 2,147,483,647"): read_table(tmp_path/"big.tsv")


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
    with pytest.raises(AamError, match=r"some.fasta lacks 2 of the 3 features of .*t.tsv, which have 66.7% "
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
    with pytest.raises(AamError, match="Turn the table round"): read_table(tmp_path/"t.tsv")


@pytest.mark.parametrize("text, says", [
    (">a\nACGT\n>a\nAAAA\n", r"sequence ids occur more than once \('a'\)"), (">a\nAC-GT\n", "'a' has '-'"),
    (">a\n>b\nACGT\n", "'a' is empty"),
    (">\nACGT\n", "sequence number 1 has no id"), (">a\nAC GT\n", "'a' has ' '"), (">a\nMKV*\n", r"has '\*'"),
])
def test_fasta_that_is_not_sound(tmp_path, text, says):
    (tmp_path/"r.fasta").write_text(text)
    with pytest.raises(AamError, match=f"r.fasta.*{says}"): read_sequences(tmp_path/"r.fasta")


@given(st.dictionaries(st.text("asv.0|;=", min_size=1, max_size=6),
                       st.text(LETTERS + LETTERS.lower() + "uU", min_size=1, max_size=30), min_size=1,
                       max_size=8),
       st.integers(1, 12), st.sampled_from(["\n", "\r\n"]))
def test_fasta_of_any_width(tmp_path_factory, sequences, width, end):
    path = tmp_path_factory.getbasetemp()/"any.fasta"
    path.write_bytes("".join(f">{k} a remark{end}" + "".join(v[i:i+width] + end
                                                             for i in range(0, len(v), width))
                             for k, v in sequences.items()).encode())
    assert read_sequences(path) == {k: v.upper().replace("U", "T") for k, v in sequences.items()}


def test_artefacts_are_looked_over(tmp_path, monkeypatch):
    monkeypatch.setattr("aam_nb.data.files._ROOM", 2**20)
    def refused(says, kind="Phylogeny[Rooted]", member="tree.nwk", change=None, data="(a:1,b:1);",
                want="tree.nwk", **more):
        path = qza(tmp_path/"a.qza", data, kind, member, **more)
        if change:
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as z: change(z)
        with pytest.raises(AamError, match=f"a.qza.*{says}"): read_qza(path, want)
    refused(r"holds Phylogeny\[Unrooted\]; wanted Phylogeny\[Rooted\]", kind="Phylogeny[Unrooted]")
    refused("holds Visualization", kind="Visualization")
    refused(r"holds FeatureTable\[RelativeFrequency\]; wanted FeatureTable\[Frequency\]",
            kind="FeatureTable[RelativeFrequency]", want="feature-table.biom")
    refused("no file data/tree.nwk", member="other.nwk")
    for name in ("../x", "/etc/x", "6e4d/data/../../x", "..\\x"):
        refused("its name leaves the archive", change=lambda z, n=name: z.writestr(n, ""))
    def link(z):
        o = zipfile.ZipInfo("6e4d/data/link")
        o.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(o, "/etc/passwd")
    refused("it is a link", change=link)
    refused("its compression is unusual", change=lambda z: z.writestr("6e4d/data/b", "x", zipfile.ZIP_BZIP2))
    refused("it grows from", change=lambda z: z.writestr("6e4d/data/zeros", bytes(3_000_000)))
    refused("no QIIME 2 artefact", change=lambda z: z.writestr("two/x", ""))
    refused("Excel workbook", change=lambda z: z.writestr("[Content_Types].xml", ""))
    with pytest.warns(UserWarning):
        refused("no QIIME 2 artefact", change=lambda z: z.writestr("6e4d/data/tree.nwk", "(other:1);"))
    refused("checksum differs", checksums__md5="0"*32 + "  data/tree.nwk\n")
    good = qza(tmp_path/"a.qza", "(a:1);", "Phylogeny[Rooted]", "tree.nwk",
               checksums__md5=hashlib.md5(b"(a:1);").hexdigest() + "  data/tree.nwk\n")
    assert read_qza(good, "tree.nwk") == b"(a:1);"


def test_gzip_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr("aam_nb.data.files._ROOM", 2**20)
    (tmp_path/"b.tsv.gz").write_bytes(gzip.compress(bytes(5_000_000)))
    with pytest.raises(AamError, match="grows more than 200-fold"): load(tmp_path/"b.tsv.gz")
    (tmp_path/"two.tsv.gz").write_bytes(gzip.compress(b"#OTU ID\tS1\n") + gzip.compress(b"ACGT\t3\n"))
    assert read_table(tmp_path/"two.tsv.gz").counts.sum() == 3


def test_nothing_is_written_where_it_cannot_be(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(AamError): write_table(TINY, tmp_path/"file"/"t.biom")
    assert [o.name for o in tmp_path.iterdir()] == ["file"]


# Damaged files. The seeds below hold ids, numbers and compressed parts, so that damage reaches every reader.

@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    rng = np.random.default_rng(3)
    t = table(rng.integers(0, 3, (5, 8)) * rng.integers(1, 90, (5, 8)))
    write_table(t, folder/"t.biom")
    fasta = "".join(f">asv{i}\n{o}\n" for i, o in enumerate(t.sequences))
    return {"biom": (folder/"t.biom").read_bytes(), "json": json.dumps(as_json(t)).encode(),
            "tsv": as_tsv(t).encode(), "fasta": fasta.encode(),
            "qza": qza(folder/"t.qza", (folder/"t.biom").read_bytes()).read_bytes(),
            "biom.gz": gzip.compress((folder/"t.biom").read_bytes(), mtime=0)}


@st.composite
def damage(draw):
    "Places (as shares of a file), what is done there, and where the file ends."
    hits = draw(st.lists(st.tuples(st.floats(0, .999999), st.integers(0, 255), st.booleans()), max_size=8))
    return hits, draw(st.one_of(st.just(1.), st.just(1.), st.floats(0, 1)))


def damaged(data, how):
    hits, end = how
    out = bytearray(data)
    full = [i for i, o in enumerate(data) if o]
    for where, value, anywhere in hits: # HDF5 is mostly zeros: most hits go where there is something
        i = int(where*len(out)) if anywhere else full[int(where*len(full))]
        out[i] = value
    return bytes(out[:int(end*len(out))])


@settings(max_examples=150)
@given(how=damage())
@pytest.mark.parametrize("kind", ["biom", "json", "tsv", "fasta", "qza", "biom.gz"])
def test_damage_is_refused_or_harmless(seeds, tmp_path_factory, kind, how):
    path = tmp_path_factory.getbasetemp()/f"damaged.{kind}"
    path.write_bytes(damaged(seeds[kind], how))
    try: out = read_sequences(path) if kind == "fasta" else read_table(path)
    except AamError as e:
        assert path.name in str(e)
        return
    if kind != "fasta": sound(out)


@pytest.mark.parametrize("place, value", [(8, 255), (8, 1), (4, 1), (0, 0)])
def test_a_damaged_heap_of_ids_ends(seeds, tmp_path, place, value):
    "The HDF5 library hangs or crashes on some of these; so the ids are read without it."
    data = bytearray(seeds["biom"])
    heap = data.find(b"GCOL")
    for k in range(16, 400, 16): # The heads of the heap's objects
        again = bytearray(data)
        again[heap + k + place] = value
        (tmp_path/"h.biom").write_bytes(again)
        try: sound(read_table(tmp_path/"h.biom"))
        except AamError as e: assert "h.biom" in str(e)


def test_sniff_knows_its_kinds():
    assert [sniff(o) for o in (b"", b"  {", b"\xef\xbb\xbf#x", b"PK\x05\x06", b"a\0b", b"\n>x",
                               b"(a,b);")] == [
        "empty", "json", "text", "zip", "binary", "fasta", "newick"]


# Real files.

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
