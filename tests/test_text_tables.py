"Text tables as people bring them: the reads that biom-format and pandas find, and a note on what was done."
import csv
import io

import numpy as np
import pandas as pd
import pytest
from table_forms import as_tsv, numbered, same, sound, table

from aam_nb.core import AamError
from aam_nb.data.slices import open_table
from aam_nb.data.table import read_table


@pytest.fixture
def study():
    "A table of 6 samples and 9 ASVs, and what biom-format makes of it: a frame of ASVs by samples."
    import biom
    rng = np.random.default_rng(8)
    counts = rng.integers(0, 60, (6, 9))*(rng.random((6, 9)) < .6) + np.eye(6, 9, dtype=int)
    t = table(counts, sequences=[numbered(i)*3 for i in range(9)])
    theirs = biom.Table(t.counts.T, t.sequences.tolist(), t.sample_ids.tolist())
    return t, theirs.to_dataframe(dense=True).astype(int)


def named(frame): return frame.set_axis([f"ASV{i + 1}" for i in range(len(frame))])


def fasta(folder, frame):
    (folder/"rep.fasta").write_text("".join(f">ASV{i + 1}\n{o}\n" for i, o in enumerate(frame.index)))
    return folder/"rep.fasta"


def from_r(frame, sep="\t", quote=True, col_names=True):
    "The text that R's write.table makes of a frame, of which write.csv is a variant with a blank name."
    q = '"' if quote else ""
    head = [f"{q}{o}{q}" for o in frame.columns]
    lines = [sep.join(([f'{q}{q}'] if col_names == "NA" else []) + head)]
    lines += [sep.join([f"{q}{i}{q}", *map(str, row)]) for i, row in zip(frame.index, frame.to_numpy())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("sep", ["\t", ",", ";", " "])
@pytest.mark.parametrize("quote", [True, False])
@pytest.mark.parametrize("col_names", [True, "NA"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "bom"])
def test_what_r_writes(tmp_path, study, sep, quote, col_names, end):
    ours, frame = study
    text = from_r(frame, sep, quote, col_names)
    if sep != " ": # The oracle: pandas on the same file
        header = pd.read_csv(io.StringIO(text), sep=sep, index_col=0)
        assert (header.to_numpy() == frame.to_numpy()).all()
    data = text.encode("utf-8-sig") if end == "bom" else text.replace("\n", end).encode()
    (tmp_path/"t.txt").write_bytes(data)
    t = read_table(tmp_path/"t.txt")
    same(t, ours)
    notes = " ".join(t.notes)
    assert ("quotation marks" in notes) == quote
    assert ("'S0' is the first sample" in notes) == (col_names is True)
    assert ("separated by" in notes) == (sep != "\t")


def test_a_header_is_short_only_where_that_is_certain(tmp_path):
    named, lineage = "asv_id\tS1\tS2\nACGT\t3\t0\t7\nACGA\t1\t5\t2\n", "x\tS1\tS2\nACGT\t3\t0\tk__B\n"
    for text in (named, lineage, "S1\tS2\nACGT\t3\t0\nACGA\t1\n"):
        (tmp_path/"t.tsv").write_text(text)
        with pytest.raises(AamError, match="line [23]: .*(cells for|wanted a count)"):
            read_table(tmp_path/"t.tsv")


def spelled(frame, path, **how):
    out = named(frame)
    out.insert(0, "sequence", frame.index)
    out.to_csv(path, **how)


@pytest.mark.parametrize("name, how", [("t.tsv", dict(sep="\t")), ("t.csv", {}),
                                       ("t.csv", dict(sep=";", quoting=csv.QUOTE_ALL))])
def test_sequences_in_a_column_beside_the_counts(tmp_path, study, name, how):
    ours, frame = study
    spelled(frame, tmp_path/name, **how)
    if how.get("quoting") is None: assert "sequence" in pd.read_csv(tmp_path/name, sep=how.get("sep", ","))
    t = read_table(tmp_path/name)
    same(t, ours)
    assert any("sequences of its features are in its column 'sequence'" in o for o in t.notes)
    same(read_table(tmp_path/name, fasta(tmp_path, frame)), ours)


def test_a_primer_in_each_line_is_no_sequence_of_a_feature(tmp_path, study):
    _, frame = study
    out = named(frame)
    out.insert(0, "primer", "GTGCCAGCMGCCGCGGTAA")
    out.to_csv(tmp_path/"t.tsv", sep="\t")
    with pytest.raises(AamError, match="are not sequences"): read_table(tmp_path/"t.tsv")


RANKS = ["Kingdom", "Phylum", "Class", "Order", "Family", "Genus", "Species"]


@pytest.mark.parametrize("front", [True, False])
def test_columns_of_taxa_on_either_side(tmp_path, study, front):
    ours, frame = study
    taxa = pd.DataFrame({o: [f"{o[0].lower()}__{i}" if i % 3 else np.nan for i in range(9)] for o in RANKS},
                        index=frame.index)
    pd.concat([taxa, frame] if front else [frame, taxa], axis=1).to_csv(tmp_path/"t.csv", na_rep="NA")
    t = read_table(tmp_path/"t.csv")
    same(t, ours)
    assert any("columns that are not samples were left out ('Kingdom', 'Phylum', 'Class' and 4 more)" in o
               for o in t.notes)


def test_columns_of_text_between_samples_and_a_sum(tmp_path, study):
    ours, frame = study
    out = frame.assign(taxonomy="k__Bacteria", comment="", Total=frame.sum(axis=1))
    out.insert(2, "Genus", "Blautia")
    out.to_csv(tmp_path/"t.tsv", sep="\t")
    t = read_table(tmp_path/"t.tsv")
    same(t, ours)
    assert "left out ('Genus', 'taxonomy', 'comment')" in t.notes[0] and "'Total' is the sum" in t.notes[1]


def test_the_long_form_is_named(tmp_path, study):
    _, frame = study
    long = frame.stack().reset_index().set_axis(["OTU", "Sample", "Abundance"], axis=1)
    long.to_csv(tmp_path/"t.csv")
    with pytest.raises(AamError, match="t.csv is in long form.*otu_table"): read_table(tmp_path/"t.csv")


def test_blank_columns_at_the_end(tmp_path, study):
    ours, _ = study
    (tmp_path/"t.tsv").write_text(as_tsv(ours).replace("\n", "\t\t\n").replace("file\t\t", "file"))
    t = read_table(tmp_path/"t.tsv")
    same(t, ours)
    assert not t.notes


@pytest.mark.parametrize("names", ["fasta", "sequences"])
@pytest.mark.parametrize("how", [dict(sep="\t"), dict(sep=",", quoting=csv.QUOTE_NONNUMERIC)])
def test_samples_as_rows(tmp_path, study, names, how):
    ours, frame = study
    (frame if names == "sequences" else named(frame)).T.to_csv(tmp_path/"t.txt", **how)
    t = read_table(tmp_path/"t.txt", fasta(tmp_path, frame) if names == "fasta" else None)
    same(t, ours)
    sound(t)
    note = "rows are samples and its columns are ASVs, so the table was turned round"
    assert any(note in o for o in t.notes)


def test_sequences_as_columns_beside_a_file_that_names_them(tmp_path, study):
    ours, frame = study
    frame.T.to_csv(tmp_path/"seqtab.tsv", sep="\t")
    same(read_table(tmp_path/"seqtab.tsv", fasta(tmp_path, frame)), ours)


def test_samples_as_rows_in_biom(tmp_path, study):
    import biom
    import h5py
    ours, frame = study
    lying = biom.Table(ours.counts, ours.sample_ids.tolist(), named(frame).index.tolist())
    with h5py.File(tmp_path/"t.biom", "w") as f: lying.to_hdf5(f, "a test")
    same(read_table(tmp_path/"t.biom", fasta(tmp_path, frame)), ours)
    with pytest.raises(AamError, match="t.biom: its rows are samples.*Turn the table round"), \
            open_table(tmp_path/"t.biom", fasta(tmp_path, frame)): pass


def count_table(frame, packed=False):
    "As mothur writes it."
    total = frame.sum(axis=1)
    lines = ["\t".join(["Representative_Sequence", "total", *frame.columns])]
    if packed:
        lines.insert(0, "#Compressed Format: groupIndex,abundance. For example 1,6 would mean 6 for S0.")
        lines.insert(1, "#" + "\t".join(f"{i + 1},{o}" for i, o in enumerate(frame.columns)) + "\t")
    for i, row in frame.iterrows():
        cells = [f"{k + 1},{n}" for k, n in enumerate(row) if n] if packed else map(str, row)
        lines.append("\t".join([i, str(total[i]), *cells]))
    return "\n".join(lines) + "\n"


def shared(frame, label="0.03"):
    rows = ["\t".join(["label", "Group", "numOtus", *frame.index, ""])]
    rows += ["\t".join([label, o, str(len(frame)), *map(str, frame[o]), ""]) for o in frame.columns]
    return "\n".join(rows) + "\n"


def packed_table(frame): return count_table(frame, packed=True)


@pytest.mark.parametrize("write, name", [(count_table, "t.count_table"), (count_table, "t.tsv"),
                                         (packed_table, "t.count_table"), (shared, "t.shared")])
@pytest.mark.parametrize("names", ["fasta", "sequences"])
def test_tables_from_mothur(tmp_path, study, write, name, names):
    ours, frame = study
    (tmp_path/name).write_text(write(named(frame) if names == "fasta" else frame))
    t = read_table(tmp_path/name, fasta(tmp_path, frame) if names == "fasta" else None)
    same(t, ours)
    assert any("of mothur" in o for o in t.notes)


def test_tables_from_mothur_that_are_not_sound(tmp_path, study):
    _, frame = study
    def refused(text, says, name="t.count_table"):
        (tmp_path/name).write_text(text)
        with pytest.raises(AamError, match=f"{name}.*{says}"): read_table(tmp_path/name)
    packed = count_table(frame, packed=True)
    refused(packed.replace("\t3,", "\t9,", 2), "wanted pairs like '1,6'")
    refused(packed.rsplit("\t", 1)[0], "Is the line cut short")
    refused(packed.replace("#1,S0\t", "#1,S7\t"), "does not number the 6 samples")
    refused("Representative_Sequence\ttotal\nACGT\t3\n", "without groups: it has totals only")
    both = shared(frame) + shared(frame, "0.05").split("\n", 1)[1]
    refused(both, r"2 distances \('0.03', '0.05'\)", "t.shared")
    cut = shared(frame)[:-9].rstrip()
    refused(cut, "line 7: wanted a count for each of 9 OTUs; found", "t.shared")


@pytest.mark.parametrize("cell", ["1_000", "\u0663", "nan", "NaN", "inf", "-inf", "0x10", "1e400", "9"*5000,
                                  "1,0", "1 000", "NA", "true", "1e", "+", "--1"])
def test_what_is_no_number_is_named_with_its_place(tmp_path, cell):
    (tmp_path/"t.tsv").write_text(f"#OTU ID\tS1\tS2\nACGT\t3\t0\nACGA\t5\t{cell}\n")
    with pytest.raises(AamError, match="t.tsv, line 3: sample 'S2' has '.*'; wanted a number of reads"):
        read_table(tmp_path/"t.tsv")


@pytest.mark.parametrize("cell, n", [("7.0", 7), (" 7", 7), ("7e0", 7), ("+7", 7), ("007", 7), ("7.", 7)])
def test_what_is_a_number(tmp_path, cell, n):
    (tmp_path/"t.tsv").write_text(f"#OTU ID\tS1\tS2\nACGT\t3\t0\nACGA\t5\t{cell}\n")
    assert read_table(tmp_path/"t.tsv").counts.toarray()[1, 1] == n


def test_a_quotation_mark_without_its_partner_is_suspected(tmp_path):
    (tmp_path/"t.tsv").write_text('#OTU ID\tS1\tS2\n"ACGT\t3\t0\nACGA\t5\t1\n')
    with pytest.raises(AamError, match="line 2: .*quotation mark without its partner"):
        read_table(tmp_path/"t.tsv")


def test_text_that_is_no_table(tmp_path):
    for text in ("Dear reader,\nthis is no table.\n", "a\nb\nc\n", "x\n", "id\tname\na\tb\n"):
        (tmp_path/"t.txt").write_text(text)
        with pytest.raises(AamError, match="t.txt.*(not a table|no column of numbers)"):
            read_table(tmp_path/"t.txt")
