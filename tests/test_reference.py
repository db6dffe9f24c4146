"A reference as a folder and as an archive: only what is wanted, nothing that leads out, and what is missing."
import io
import tarfile

import numpy as np
import pytest
from reference_folder import at_tips, gene, study, write_reference

from aam_nb.core import AamError
from aam_nb.data.reference import read_reference
from aam_nb.data.tree import path_lengths

MADE = study()


@pytest.fixture
def folder(tmp_path): return write_reference(tmp_path/"genes", MADE)


def archive(path, folder=None, more=()):
    "An archive of a folder, with further members."
    with tarfile.open(path, "w:gz") as out:
        if folder: out.add(folder, "some-1.0/data")
        for entry, data in more: out.addfile(entry, io.BytesIO(data))
    return path


def member(name, data=b">1\nACGT\n", **more):
    "A member of an archive."
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for k, v in more.items(): setattr(entry, k, v)
    return entry, data


def test_genes_are_at_their_tips(folder):
    found = read_reference(folder)
    assert found.genes.tolist() == [gene(o) for o in at_tips(MADE)]
    assert found.tree.tips.tolist() == at_tips(MADE) and not found.notes
    at = np.arange(20)
    assert np.allclose(path_lengths(found.tree, at), path_lengths(MADE.tree, at))


def test_an_archive_holds_the_same_and_its_code_stays_packed(folder, tmp_path):
    path = archive(tmp_path/"some.tar.gz", folder, [member("some-1.0/setup.py", b"raise SystemExit(1)")])
    assert read_reference(path).digest == read_reference(folder).digest
    assert not list(tmp_path.rglob("setup.py"))


@pytest.mark.parametrize("name, more, says", [
    ("../../rep_set/97_otus.fasta", {}, "some.tar.gz cannot be read as a .tar.gz archive .*outside"),
    ("/rep_set/97_otus.fasta", {}, "holds no file that end with trees/97_otus.tree"),
    ("a/rep_set/97_otus.fasta", dict(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0), "holds no file"),
    ("a/rep_set/97_otus.fasta", dict(type=tarfile.LNKTYPE, linkname="../b", size=0), "holds no file"),
    ("a/setup.py", {}, "holds no file that end with rep_set/97_otus.fasta.*pip download"),
])
def test_members_that_lead_out_are_not_unpacked(tmp_path, name, more, says):
    entry, data = member(name, b"" if more else b">1\nACGT\n", **more)
    path = archive(tmp_path/"some.tar.gz", more=[(entry, data)])
    with pytest.raises(AamError, match=says): read_reference(path)
    assert sorted(o.name for o in tmp_path.rglob("*")) == ["some.tar.gz"]


def test_a_member_beyond_reason_is_refused_before_it_is_unpacked(tmp_path):
    entry = tarfile.TarInfo("a/rep_set/97_otus.fasta")
    entry.size = 2**31
    (tmp_path/"large.tar").write_bytes(entry.tobuf() + b"\0"*4096)
    with pytest.raises(AamError, match="large.tar.*2,147,483,648 bytes"): read_reference(tmp_path/"large.tar")


def test_what_is_missing_or_damaged_is_named(folder, tmp_path):
    with pytest.raises(AamError, match="There is no file .*none"): read_reference(tmp_path/"none")
    path = archive(tmp_path/"some.tar.gz", folder)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(AamError, match="some.tar.gz cannot be read"): read_reference(path)
    (folder/"trees/97_otus.tree").write_text("(1:.1,2:.1);")
    with pytest.raises(AamError, match=r"none of the tree's tips \(first: '1', '2'\)"): read_reference(folder)
    (folder/"copy/trees").mkdir(parents=True)
    (folder/"copy/trees/97_otus.tree").write_text("(1:.1,2:.1);")
    with pytest.raises(AamError, match="holds 2 files that end with trees/97_otus.tree"):
        read_reference(folder)


def test_tips_without_a_gene_and_genes_without_a_tip_are_left_out(folder):
    path = folder/"rep_set/97_otus.fasta"
    gone, rest = path.read_text()[1:].split(">", 1)
    path.write_text(f">{rest}>stray\nACGT\n")
    found = read_reference(folder)
    assert len(found.genes) == len(found.tree.tips) == len(MADE.tree.tips) - 1
    assert gone.split("\n")[0] not in found.tree.tips
    assert found.notes == ("1 tips without a sequence left out", "1 sequences without a tip left out")


def test_what_is_wrong_inside_an_archive_is_said_of_the_archive(folder, tmp_path):
    (folder/"rep_set/97_otus.fasta").write_text(">a\nAC-GT\n")
    with pytest.raises(AamError, match="^.*some.tar.gz.*97_otus.fasta: 1 of 1 sequences"):
        read_reference(archive(tmp_path/"some.tar.gz", folder))
