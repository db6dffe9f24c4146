"""Files of the kinds that people bring, and what they see. One small study of each kind lies in
`tests/cases`. The numbers are those of the files; most studies have 30 samples, 30 ASVs and 36,134 reads."""
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from aam_nb.cli import app

CASES = Path(__file__).parent/"cases"
SHORT = ["optim.steps=20", "pretrain_asv.steps=10", "run.folds=3", "run.threads=1"]


@pytest.fixture
def aam(monkeypatch, tmp_path):
    "Runs a command in the folder of a case. Gives what it printed, on one line; output goes to `tmp_path`."
    def run(case, *words, code=0):
        monkeypatch.chdir(next(CASES.glob(f"{case}-*")))
        done = CliRunner().invoke(app, [str(o) for o in words])
        said = " ".join(done.output.split())
        assert done.exit_code == code and "Traceback" not in said, said
        return said
    return run


STUDY = ["--table", "table.tsv", "--metadata", "meta.tsv"]


def test_a_table_of_rs_write_table(aam):
    said = aam("01", "inspect", *STUDY, "--target", "age")
    assert "30 samples, 30 ASVs" in said and "100 bases" in said and "quot" in said


def test_samples_as_rows_beside_a_fasta_of_the_columns(aam):
    said = aam("03", "inspect", *STUDY, "--sequences", "asvs.fna", "--target", "age")
    assert "30 samples, 30 ASVs, 36,134 reads" in said and "turn" in said
    said = aam("03", "inspect", "--table", "seqtab.tsv", "--metadata", "meta.tsv", "--target", "age")
    assert "30 samples, 30 ASVs, 36,134 reads" in said


def test_mothurs_total_is_no_sample(aam, tmp_path):
    names = ["--sequences", "s.fasta"]
    for more in (["--metadata", "meta.tsv", "--target", "age"], []):
        said = aam("04", "inspect", "--table", "table.tsv", *names, *more)
        assert "30 samples, 30 ASVs, 36,134 reads" in said and "'total'" in said
    aam("04", "train", "--table", "clean.tsv", "--metadata", "meta.tsv", *names, "--target", "age",
        "--independent", "--out", tmp_path/"run", *SHORT[:2])
    said = aam("04", "predict", "--bundle", tmp_path/"run"/"bundle", "--table", "table.tsv", *names, "--out",
               tmp_path/"out.tsv")
    assert "'total'" in said
    found = pd.read_csv(tmp_path/"out.tsv", sep="\t", index_col=0)
    assert len(found) == 30 and "total" not in found.index and found.prediction.notna().all()


def test_sequences_that_rename_the_table_rename_the_tree(aam, tmp_path):
    files = [*STUDY, "--sequences", "asvs.fna", "--tree", "tree.nwk"]
    assert "30 of 30 ASVs" in aam("06", "inspect", *files, "--target", "age")
    aam("06", "evaluate", *files, "--target", "age", "--independent", "--out", tmp_path/"run", *SHORT)
    assert "Ridge, branches" in (tmp_path/"run"/"report.html").read_text()
    aam("06", "cache", "store", *files, "--out", tmp_path/"store")
    assert "30 of 30 ASVs" in aam("06", "inspect", "--table", tmp_path/"store", "--target", "age")


@pytest.mark.parametrize("groups", ["subject", "barcode", "household"])
def test_ids_that_look_like_numbers_stay_ids(aam, groups):
    said = aam("10", "inspect", *STUDY, "--target", "age", "--groups", groups)
    assert f"groups '{groups}' 10; samples in each: median 3, range 3 to 3" in said


def test_groups_of_written_ids_do_not_straddle_folds(aam, tmp_path):
    aam("10", "evaluate", *STUDY, "--target", "age", "--groups", "subject", "--out", tmp_path/"run", *SHORT)
    found = pd.read_csv(tmp_path/"run"/"predictions.tsv", sep="\t", dtype=str)
    assert found.group.nunique() == 10 and {"1.1", "1.10"} <= set(found.group)
    assert (found.groupby("group").fold.nunique() == 1).all()


def test_asvs_that_are_reverse_complements_of_others_are_found(aam):
    for tree in ([], ["--tree", "tree.nwk"]):
        said = aam("12", "inspect", *STUDY, "--target", "age", *tree)
        assert "30" in said and "reverse complement" in said and "Nothing was found" not in said


def test_reads_that_are_not_the_bundles_are_named(aam, tmp_path):
    aam("13", "train", *STUDY, "--target", "age", "--independent", "--out", tmp_path/"run", *SHORT[:2])
    words = {"trim90": ("90", "100"), "trim3": ("without their first 3 bases",),
             "rc": ("reverse complement",)}
    found = {}
    for name in ("same", *words):
        out, bundle = tmp_path/f"{name}.tsv", tmp_path/"run"/"bundle"
        said = aam("13", "predict", "--bundle", bundle, "--table", f"{name}.tsv", "--out", out)
        found[name] = pd.read_csv(out, sep="\t", index_col=0)
        assert all(o in said for o in words.get(name, ())), said
        assert "100% of their reads" not in said
    assert found["same"].note.isna().all() and found["same"].low.notna().all()
    for name in words:
        assert found[name].note.notna().all() and found[name].prediction.notna().all()
        width = found[name].high - found[name].low
        assert not (width <= (found["same"].high - found["same"].low).max()*1.001).any()


def test_numbers_with_other_signs_are_named(aam, tmp_path):
    for target in ("ph", "ph_dense"):
        said = aam("15", "inspect", *STUDY, "--target", target)
        assert "decimal comma" in said and "5 classes" not in said
    assert "-999" in aam("15", "inspect", *STUDY, "--target", "age_999").partition("tree none")[2]
    aam("15", "train", *STUDY, "--target", "age_999", "--independent", "--out", tmp_path/"run", *SHORT[:2])
    odd = {"age_unknown": "'Unknown'", "age_na": "'#N/A'", "age_plus": "'90+'", "days": "'1,732'"}
    for target, cell in odd.items(): assert cell in aam("15", "inspect", *STUDY, "--target", target)


def test_classes_that_differ_in_spelling_only_are_named(aam, tmp_path):
    how = [*STUDY, "--target", "diet"]
    for said in (aam("16", "inspect", *how),
                 aam("16", "train", *how, "--independent", "--out", tmp_path/"run", *SHORT[:2])):
        assert all(f"'{o}'" in said for o in ("Control", "control", "High Fat", "High_Fat"))
        assert "Nothing was found" not in said


@pytest.mark.parametrize("target", ["Age, years (at visit)", "BMI kg/m2", "status=x", "body site's"])
def test_a_name_that_is_a_column_as_a_whole_is_one(aam, target):
    said = aam("19", "inspect", *STUDY, "--target", target, "--groups", "host/subject id")
    assert f"target '{target}'" in said and "groups 'host/subject id' 15" in said


@pytest.mark.parametrize("covariate", ["BMI kg/m2", "diet, kind", "kg/m2", "Age, years (at visit)"])
def test_a_covariate_may_have_a_comma_or_a_slash_in_its_name(aam, tmp_path, covariate):
    aam("19", "train", *STUDY, "--target", "status", "--independent", f"data.covariates={covariate}", "--out",
        tmp_path/"run", *SHORT[:2])
    said = aam("19", "inspect", *STUDY, "--where", "'Age, years (at visit)' > 3")
    assert "25 samples" in said
