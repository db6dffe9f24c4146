"Ids that programs rewrite: the rewriting is found, named with an example, and applied where it is certain."
import numpy as np
import pandas as pd
import pytest

from aam_nb.core import AamError
from aam_nb.data.distance_files import read_distances
from aam_nb.data.ids import near_ids, partners, r_name, spelling, without_file, without_size
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table

WRITTEN = ["001-MOCK-0", "002-MOCK-7", "014-SOIL-1", "7-gut b", "Sample (8)"]
MANY = [f"S{i:03d}" for i in range(40)]


def test_names_as_r_makes_them():
    "As R 4.3 gives for make.names(c(...))."
    theirs = {"001-MOCK-0": "X001.MOCK.0", "a b": "a.b", ".1a": "X.1a", ".a": ".a", "_a": "X_a", "a_b": "a_b",
              "S1": "S1", "": "X", "7-gut b": "X7.gut.b", "é1": "é1"}
    assert {o: r_name(o) for o in theirs} == theirs
    assert all(r_name(o) == o for o in theirs.values())


@pytest.mark.parametrize("name, change", [
    ("make.names", r_name), ("make.names", lambda o: r_name(o)),
    ("number in front", lambda o: f"10317.{o}"), ("upper and lower case", str.upper),
    ("upper and lower case", str.lower), ("quotation marks", '"{}"'.format),
    ("dots, dashes", lambda o: o.replace("-", "_")), ("';size=120'", "{};size=12;".format),
    ("ending of a file", "{}_S1_L001_R1_001.fastq.gz".format), ("ending of a file", "{}_R1".format),
    ("ending of a file", "reads/{}.fastq".format), ("'run2-' in front", "run2-{}".format),
    ("'.fastp' behind", "{}.fastp".format),
    ("behind a blank", lambda o: f"{o} k__Bacteria; p__{o}")])
def test_a_rewriting_is_found_whichever_file_has_it(name, change):
    ids = WRITTEN[:3] if "blank" in name else WRITTEN
    if change(ids[0]) == ids[0]: ids = ids[:0] + ["aB-1", "cD-2", "eF-3"]
    others = [change(o) for o in ids]
    for one, other in ((others, [*ids, "blank"]), (ids, [*others, "blank"])):
        how, pairs = spelling(one, other)
        assert name in how.what and pairs == dict(zip(one, other, strict=False))
        said = near_ids(one, other)
        assert f"All {len(ids)} would match if" in said and f"'{one[0]}' is '{other[0]}' there" in said


def test_two_rewritings_together():
    said = near_ids([f"10317.{o}_R1.fastq.gz" for o in MANY], MANY)
    assert "All 40 would match" in said and "number in front" in said and "ending of a file" in said


@pytest.mark.parametrize("ids, known", [
    (MANY, [o.replace("S", "T") for o in MANY]), (["a_1", "a_2"], ["b_1", "b_2"]), ([], ["a"]), (["a"], []),
    (["a.1", "a-1"], ["a_1"]), # Two that become alike are no partners
    (["gut", "skin"], ["1", "2"])])
def test_other_ids_are_not_explained(ids, known):
    assert near_ids(ids, known) == ""


def test_most_ids_are_enough_and_few_are_not():
    assert "35 of these 40 would match" in near_ids([o.lower() for o in MANY[:35]] + list("vwxyz"), MANY)
    assert near_ids([o.lower() for o in MANY[:20]] + [f"q{i}" for i in range(20)], MANY) == ""
    assert partners(["a", "b"], ["A", "a", "B"], str.lower) == {"b": "B"}


def test_ends_of_files_and_sizes():
    ends = ["S1_S12_L001_R1_001.fastq.gz", "S1_R2", "S1.R1", "raw/S1.fq.gz", "S1_S12", "c:\\x\\S1.fasta"]
    assert {without_file(o) for o in ends} == {"S1"}
    assert [without_file(o) for o in ("S1_1", "S1_L2", "plot_S")] == ["S1_1", "S1_L2", "plot_S"]
    sizes = ("a;size=3", "a;size=3;ee=.1;", "a;b", ";size=3")
    assert [without_size(o) for o in sizes] == ["a", "a", "a;b", ""]


def table(folder, samples, features=("ACGTACGTAA", "ACGTACGTCC"), name="t.tsv"):
    rows = [["#OTU ID", *samples]]
    rows += [[o, *[str(3 + i + len(o)) for i, _ in enumerate(samples)]] for o in features]
    (folder/name).write_text("\n".join("\t".join(o) for o in rows) + "\n")
    return folder/name


def test_samples_and_metadata(tmp_path):
    found = read_table(table(tmp_path, [r_name(o) for o in WRITTEN]))
    about = pd.DataFrame(dict(age=range(5)), index=WRITTEN)
    with pytest.raises(AamError, match=r"All 5 would.*'X001.MOCK.0' is '001-MOCK-0'.*check.names=FALSE"):
        make_study(found, about)
    one = read_table(table(tmp_path, [*WRITTEN[:4], "sample (8)"]))
    with pytest.raises(AamError, match=r"for 1 of the table's 5.*It would match if upper and lower case"):
        make_study(one, about)
    assert any("It would match" in o for o in make_study(one, about, missing="drop").notes)


def test_features_and_their_sequences(tmp_path):
    path, fasta = table(tmp_path, ["S1", "S2"], ["ASV1", "ASV2"]), tmp_path/"s.fna"
    fasta.write_text(">ASV1;size=30\nACGTT\n>ASV2;size=2;\nACGAA\n")
    found = read_table(path, fasta)
    assert list(found.sequences) == ["ACGTT", "ACGAA"] and "2 of 2 features" in found.notes[0]
    fasta.write_text(">asv1\nACGTT\n>asv2\nACGAA\n")
    with pytest.raises(AamError, match="All 2 would match if upper and lower case.*'ASV1' is 'asv1'"):
        read_table(path, fasta)
    sized = table(tmp_path, ["S1", "S2"], ["ASV1;size=3", "ASV2"], "sized.tsv")
    fasta.write_text(">ASV1\nACGTT\n>ASV2\nACGAA\n")
    assert list(read_table(sized, fasta).sequences) == ["ACGTT", "ACGAA"]


def test_rows_that_are_sequences_beside_a_file_that_names_them(tmp_path):
    "DADA2 keeps sequences in the table and writes names into a FASTA file, from which a tree is built."
    path, fasta = table(tmp_path, ["S1", "S2"]), tmp_path/"s.fna"
    fasta.write_text(">ASV1\nACGTACGTAA\n>ASV2\nACGTACGTCC\n")
    assert list(read_table(path, fasta).sequences) == ["ACGTACGTAA", "ACGTACGTCC"]
    fasta.write_text(">ASV1\nTTTT\n")
    with pytest.raises(AamError, match="None of the 2 features"): read_table(path, fasta)


def test_distances_of_samples_with_other_names(tmp_path):
    np.savez(tmp_path/"d.npz", ids=np.array(["s1", "s2"]), matrix=np.array([[0, 1.], [1, 0]]))
    with pytest.raises(AamError, match="All 2 would match if upper and lower case"):
        read_distances(tmp_path/"d.npz").align(["S1", "S2"])
