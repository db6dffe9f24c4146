"What a file holds is found by looking, and a damaged or dangerous one is refused by name."
import gzip
import hashlib
import stat
import time
import zipfile

import numpy as np
import pytest
from table_forms import FORMS, qza, write_forms

from aam_nb.core import AamError
from aam_nb.data.files import load, read_qza, sniff
from aam_nb.data.table import read_table
from aam_nb.runs.predict import as_store
from aam_nb.runs.samples import load_study
from aam_nb.sections import DataConfig


@pytest.fixture
def forms(tmp_path):
    "The folder of a table in each form."
    return write_forms(tmp_path)


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
    refused(b"\0\1\2", "x", "an unknown kind")
    refused("\ufeff#OTU ID\tS1\n".encode("utf-16-le"), "excel.txt", "UTF-16")
    refused(b"@read\nACGT\n+\nIIII\n", "reads.txt", "FASTQ")
    refused(b"#OTU ID,S1\nACGT,3,4,5\n", "a.csv", "is text, but not a table")
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
    refused("not a QIIME 2 artefact", change=lambda z: z.writestr("two/x", ""))
    refused("Excel workbook", change=lambda z: z.writestr("[Content_Types].xml", ""))
    with pytest.warns(UserWarning):
        refused("not a QIIME 2 artefact", change=lambda z: z.writestr("6e4d/data/tree.nwk", "(other:1);"))
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


def test_sniff_knows_its_kinds():
    assert [sniff(o) for o in (b"", b"  {", b"\xef\xbb\xbf#x", b"PK\x05\x06", b"a\0b", b"\n>x",
                               b"(a,b);")] == [
        "empty", "json", "text", "zip", "binary", "fasta", "newick"]


def test_gzip_of_many_members_takes_no_longer(tmp_path):
    (tmp_path/"t.tsv.gz").write_bytes(gzip.compress(b"#OTU ID\tS1\n") + gzip.compress(b"")*200_000)
    start = time.perf_counter()
    assert load(tmp_path/"t.tsv.gz") == (b"#OTU ID\tS1\n", "text")
    assert time.perf_counter() - start < 20 # Quadratic, it took minutes


def test_an_archive_of_too_many_members_is_refused_before_it_is_listed(tmp_path):
    with zipfile.ZipFile(tmp_path/"many.qza", "w") as z:
        z.writestr("6e4d/metadata.yaml", "uuid: 6e4d\ntype: Phylogeny[Rooted]\nformat: any\n")
        z.filelist.extend([z.filelist[0]]*100_001)
    with pytest.raises(AamError, match=r"many.qza is a zip archive of 100,002 members"):
        read_qza(tmp_path/"many.qza", "tree.nwk")


@pytest.mark.parametrize("name", ["a"*5000, "S1,"*1700, "dir/"*1250])
def test_a_path_that_is_too_long_is_named_in_short(name):
    with pytest.raises(AamError, match="(aaa|S1,S1|dir/dir).*cannot be opened .File name too long") as e:
        read_table(name)
    assert len(str(e.value)) < 400
    with pytest.raises(AamError, match="cannot be opened|is not a store"): as_store(name)
    with pytest.raises(AamError, match="cannot be opened"): load_study(DataConfig(table=name))


def test_a_file_that_may_not_be_read_is_named(forms, monkeypatch):
    def denied(self): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(AamError, match="t.biom cannot be opened .Permission denied.*may read it"):
        read_table(forms/"t.biom")
    monkeypatch.setattr("pathlib.Path.is_file", denied)
    with pytest.raises(AamError, match="t.biom cannot be opened .Perm"): read_table(forms/"t.biom")
