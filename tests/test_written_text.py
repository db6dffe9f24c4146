"Ids, classes and categories that look like numbers stay what is written, from the file to all that read it."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from aam_nb.batches.arrays import metadata_from, metadata_text
from aam_nb.batches.build import build_store
from aam_nb.batches.store import open_store
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.covariates import CovariateCodec
from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import write_study
from aam_nb.data.split import kfold, leave_one_out, nested, split_groups, strata
from aam_nb.data.split_lists import folds_given, read_folds, read_given, split_given, write_folds
from aam_nb.data.study import join_studies, make_study
from aam_nb.data.subjects import subject_like
from aam_nb.data.targets import Targets
from aam_nb.data.weights import target_weights
from aam_nb.data.where import select
from aam_nb.data.written import as_texts, is_number, merged_texts, text_column, written_in
from aam_nb.evaluation.inspect import inspect_study
from aam_nb.evaluation.question import Case, Question, numbered
from aam_nb.evaluation.validate import evaluate
from aam_nb.runs.choice import group_values
from aam_nb.runs.parts import fixed_parts, with_split
from aam_nb.sections import DataConfig
from aam_nb.types import Table, strings

SUBJECT = ["1.1", "1.10", "2.1", "2.10", "2.100", "3.0", "3.00", "3", "4.5", "4.50"]
BARCODE = [str(90071992547409930 + i) for i in range(10)]
HOUSE = ["001", "01", "1", "002", "02", "2", "1e1", "10", "+3", "3"]
N = 30


def table(ids, seed=0):
    "Reads of ten ASVs, 500 a sample."
    p = np.random.default_rng(seed).dirichlet(np.ones(10), len(ids))
    counts = np.random.default_rng(seed).multinomial(500, p)
    sequences = strings(["ACGT"*5 + "ACGT"[i % 4]*(i + 1) for i in range(10)])
    counts = sparse.csr_matrix(counts.astype(np.int32))
    return Table(counts=counts, sample_ids=strings(ids), sequences=sequences)


def written(path, **columns):
    "Metadata of thirty samples, three for each of ten texts."
    columns = {k: np.repeat(v, N//len(v)) for k, v in columns.items()}
    rows = zip([f"S{i:02d}" for i in range(N)], *columns.values(), strict=True)
    path.write_text("\n".join(map("\t".join, [("sample-id", *columns), *rows])) + "\n")
    return read_metadata(path)


@pytest.fixture
def metadata(tmp_path):
    age = [f"{i/3:.2f}" for i in range(N)]
    return written(tmp_path/"m.tsv", subject=SUBJECT, barcode=BARCODE, house=HOUSE, age=age,
                   code=["1.1", "1.10"]*15, sex=["f", "m"]*15)


@pytest.fixture
def study(metadata): return make_study(table(list(metadata.index)[::-1]), metadata)


def test_numbers_are_numbers_and_texts_are_texts(metadata):
    assert all(metadata[o].dtype == np.float64 for o in ("subject", "barcode", "house", "age", "code"))
    assert metadata["age"].mean() == pytest.approx(np.mean([round(i/3, 2) for i in range(N)]))
    for name, texts in (("subject", SUBJECT), ("barcode", BARCODE), ("house", HOUSE)):
        assert list(as_texts(metadata[name])) == [o for o in texts for _ in range(3)]
        some = metadata.iloc[[29, 3, 4]].copy().sort_index().loc[::-1]
        assert list(as_texts(some[name])) == [texts[9], texts[1], texts[1]]
        assert numbered(metadata[name]).max() == 9 and text_column(metadata[name]).nunique() == 10
    assert list(as_texts(metadata["sex"])) == ["f", "m"]*15
    assert set(written_in(metadata)) >= {"subject", "house"}


@pytest.mark.parametrize("name", ["subject", "barcode", "house"])
def test_ten_people_are_ten_groups(study, name):
    column = study.metadata[name]
    groups = group_values(study, DataConfig(groups=name))
    assert len(set(groups)) == 10 and list(groups) == list(as_texts(column))
    found = inspect_study(study, Question(target="age", groups=name))
    assert found.facts[f"groups '{name}'"].startswith("10;")
    of = dict(zip(study.ids, groups, strict=True))
    for given_as in (column, groups):
        split = split_groups(study.ids, given_as, seed=1)
        parts = [{of[o] for o in part} for part in (split.train, split.valid, split.test)]
        assert sum(map(len, parts)) == 10 and not parts[0] & parts[1] and not parts[0] & parts[2]
        assert len(kfold(study.ids, 10, given_as)) == 10 and len(leave_one_out(study.ids, given_as)) == 10
    outer = kfold(study.ids, 2, column)
    inner = nested(outer, study.ids, 2, column, study.metadata["code"], "classification")
    assert all(len(a) + len(b) == len(train) for (train, _), pairs in zip(outer, inner) for a, b in pairs)
    assert len(set(evaluate(study, study.metadata["age"], groups=column, folds=2).groups)) == 10


def test_classes_are_what_is_written(study):
    column = study.metadata["code"]
    codec = TargetCodec.fit(column, "classification")
    assert set(codec.classes) == {"1.1", "1.10"}
    z = codec.encode(column)[:, 0]
    assert [codec.classes[int(o)] for o in z] == list(as_texts(column))
    assert len(set(strata(column, "classification"))) == 2
    config = config_from(dict(data=dict(target=["code"], task="classification"),
                              target=dict(class_weights={"1.10": 3., "1.1": 1.})))
    weights = target_weights(Targets.fit(study.metadata, config), study.metadata, config)[:, 0]
    assert set(zip(as_texts(column), weights)) == {("1.1", 1.), ("1.10", 3.)}
    found = evaluate(study, column, task="classification", groups=study.metadata["subject"], folds=2)
    assert set(found.classes) == {"1.1", "1.10"}


def test_left_out_values_and_split_columns(study):
    data = DataConfig(leave_out="subject")
    assert len(leave_one_out(study.ids, fixed_parts(study, data)["leave_out"])) == 10
    folds = study.metadata["house"].map(lambda o: 1. + o % 2)
    assert len(folds_given(study.ids, folds)) == 2
    chosen = with_split(replace_column(study, "fold", folds), DataConfig(split="fold"))
    assert len(chosen.ids) == N
    with pytest.raises(AamError, match="says '1.1', '1.10', '2.1' and"):
        split_given(study.ids, study.metadata["subject"])


def replace_column(study, name, values):
    "A study with one more column."
    from dataclasses import replace
    return replace(study, metadata=study.metadata.assign(**{name: values}))


def test_categories_of_covariates_and_of_balance(tmp_path):
    m = written(tmp_path/"m.tsv", kit=["1.1", "1.10", "x", *["1.1"]*7], site=SUBJECT)
    codec = CovariateCodec.fit(m, (("kit", "site"),))
    assert len(codec.known[0]) == 3 and len(codec.known[1]) == 10
    assert len(set(codec.encode(m)[0][:, 1])) == 10


@pytest.mark.parametrize("where, samples", [
    ("subject == '1.10'", 3), ("subject == 1.1", 6), ("subject != '1.10'", 27),
    ("subject in ('3', '3.00')", 6),
    ("subject in (3, '4.5')", 12), ("not subject in ('3')", 27), ("subject > 3", 6), ("subject <= '3'", 24),
    ("barcode == 90071992547409931", 3), ("barcode == '90071992547409931'", 3), ("house == '01'", 3),
    ("house == 01", 9), ("house == 1e0", 9), ("house == '1e1'", 3), ("house == 10", 6), ("code == '1.1'", 15),
])
def test_conditions_take_texts_in_quotes_and_numbers_otherwise(metadata, where, samples):
    notes = []
    assert select(metadata, where, notes).sum() == samples
    several = {"subject == 1.1", "subject in (3, '4.5')", "house == 01", "house == 1e0", "house == 10"}
    assert bool(notes) == (where in several)


def test_a_condition_on_several_writings_is_noted_in_the_study(metadata):
    notes = make_study(table(list(metadata.index)), metadata, where="house == 1").notes
    assert any("takes '001', '01', '1' in 'house' as the number 1" in o for o in notes)
    with pytest.raises(AamError, match="asks for '1.100' in the column 'subject', but no sample has it. Did"):
        select(metadata, "subject == '1.100'")


def test_files_stores_and_joined_studies_keep_what_is_written(study, tmp_path):
    build_store(study, tmp_path/"store")
    again = [open_store(tmp_path/"store").study(), make_study(study.table, read_metadata(
        write_study(study, tmp_path/"files")/"metadata.tsv"))]
    other = written(tmp_path/"o.tsv", subject=["1.1"]*10, age=["x"]*10).rename(index=lambda o: f"T{o}")
    joined = join_studies(dict(a=study, b=make_study(table(list(other.index)), other)))
    for o in (*again, joined):
        for name in ("subject", "barcode", "house", "age"):
            if name in ("barcode", "house") and o is joined: continue
            assert list(as_texts(o.metadata[name]))[:N] == list(as_texts(study.metadata[name]))
    here = joined.metadata["study"] == "a"
    assert numbered(joined.metadata.loc[here, "barcode"]).max() == 9
    assert list(as_texts(joined.metadata["house"])[N:]) == [""]*N
    assert list(as_texts(joined.metadata["age"])[N:]) == ["x"]*N


def test_suspects_are_counted_as_written(metadata, study):
    assert dict(subject_like(metadata))["subject"].startswith("10 values over 30 samples")
    assert {o.name: o.groups for o in Case(study, Question(groups="barcode")).ranked}["barcode"] == 10


def test_columns_that_changed_and_other_frames_have_no_foreign_text(metadata):
    doubled = metadata.assign(subject=metadata["subject"]*2)
    assert set(as_texts(doubled["subject"])) == {"2.2", "4.2", "6", "9"}
    assert list(as_texts(pd.Series([7, 12], name="subject"))) == ["7", "12"]
    assert list(as_texts(pd.Series([7., 1.5, None]))) == ["7", "1.5", ""]
    assert list(as_texts(pd.Series(pd.Categorical(["b", None])))) == ["b", ""]
    assert list(as_texts(pd.Series(pd.Categorical([1, 2])))) == ["1", "2"]
    assert list(as_texts(pd.Series([1, None], dtype="Int64"))) == ["1", ""]
    assert list(as_texts(pd.Series([True, False]))) == ["True", "False"]
    assert list(as_texts(pd.Series(["1.10", "01"]))) == ["1.10", "01"]


@pytest.mark.parametrize("who", [
    [1, 1, 2, 2], [1., 1., 2., 2.], ["1", "1", "2", "2"], pd.Categorical(["1", "1", "2", "2"]),
    pd.Categorical([1, 1, 2, 2]), np.array([1, 1, 2, 2], dtype=np.int8),
    pd.array([1, 1, 2, 2], dtype="Int64"),
])
def test_typed_frames_work_as_files_do(who):
    frame = pd.DataFrame(dict(who=who, age=[1., 2., 3., 4.]), index=list("abcd"))
    study = make_study(table(list("abcd")), frame)
    assert list(group_values(study, DataConfig(groups="who"))) == ["1", "1", "2", "2"]
    assert set(TargetCodec.fit(frame["who"], "classification").classes) == {"1", "2"}
    assert inspect_study(study, Question(target="age", groups="who")).facts["groups 'who'"].startswith("2;")


def test_ids_of_samples_are_text_everywhere(tmp_path):
    ids = ["1.1", "1.10", "01", "1", "90071992547409930", "90071992547409931"]
    (tmp_path/"m.tsv").write_text("id\tage\n" + "".join(f"{o}\t{i}\n" for i, o in enumerate(ids)))
    study = make_study(table(ids[::-1]), read_metadata(tmp_path/"m.tsv"))
    assert list(study.ids) == ids[::-1] and study.metadata["age"].tolist() == [5., 4., 3., 2., 1., 0.]
    assert list(build_store(study, tmp_path/"store").study().ids) == ids[::-1]
    folds = kfold(study.ids, 3)
    write_folds(folds, tmp_path/"folds.tsv")
    assert [list(b) for _, b in read_folds(tmp_path/"folds.tsv")] == [sorted(b) for _, b in folds]
    rows = "".join(f"{o}\t{i % 2 + 1}.0\n" for i, o in enumerate(ids))
    (tmp_path/"given.tsv").write_text("id\tfold\n" + rows)
    assert len(folds_given(study.ids, read_given(tmp_path/"given.tsv").reindex(list(study.ids)))) == 2
    typed = pd.DataFrame(dict(age=[1., 2.]), index=[7, 12])
    assert list(make_study(table(["12", "7"]), typed).metadata["age"]) == [2., 1.]


CELL = st.one_of(st.from_regex(r"\A[+-]?0{0,2}[0-9]{1,2}(\.[0-9]{0,2})?\Z"),
                 st.integers(10**16, 10**17).map(str), st.sampled_from(["1e1", "10", "", "NA", "1E1"]))


@given(st.lists(CELL, min_size=1, max_size=12))
def test_distinct_cells_stay_distinct_and_come_back(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp()/"written.tsv"
    path.write_text("id\ta\tb\n" + "".join(f"S{i}\t{o}\tx\n" for i, o in enumerate(cells)))
    m = read_metadata(path)
    want = ["" if o in ("", "NA") else o for o in cells]
    assert list(as_texts(m["a"])) == want and list(as_texts(m.iloc[::-1]["a"])) == want[::-1]
    assert numbered(m["a"]).max(initial=-1) + 1 == len(set(want) - {""})
    again = metadata_from(metadata_text(m))
    whole = [o.removesuffix(".0") if all(k == str(float(k)) for k in want if k) else o for o in want]
    assert list(as_texts(again["a"])) in (want, whole)
    assert (again["a"].to_numpy(float) == m["a"].to_numpy(float)).tolist() == [o != "" for o in want]
    by_number = {}
    for o in filter(is_number, dict.fromkeys(want)): by_number.setdefault(float(o), []).append(o)
    assert merged_texts(m["a"]) == [o for o in by_number.values() if len(o) > 1]


@pytest.mark.parametrize("odd", ["²", "9"*5000, "٣"])
def test_fold_numbers_are_plain_and_of_few_digits(tmp_path, odd):
    with pytest.raises(AamError, match="whole numbers of folds"): folds_given(list("abc"), ["1", "2", odd])
    (tmp_path/"folds.tsv").write_text(f"sample_id\trepeat\tfold\na\t1\t{odd}\n")
    with pytest.raises(AamError, match="wanted a sample id, its repeat"): read_folds(tmp_path/"folds.tsv")


def test_barcodes_that_are_one_number_are_named_where_numbers_are_learned(metadata):
    with pytest.raises(AamError, match="its 10 texts are the same .first: '90071992547409930'"):
        TargetCodec.fit(metadata["barcode"], "regression")
