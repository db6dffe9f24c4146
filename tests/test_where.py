"Conditions on metadata, against pandas."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.metadata import read_metadata
from aam_nb.data.where import select

M = pd.DataFrame(dict(age=[1., 2., np.nan, 10.], site=["gut", "left hand", None, "skin"],
                      code=["1", "01", "2", None],
                      flag=[True, False, True, True]), index=list("abcd"))


@pytest.mark.parametrize("where, rows", [
    ("", "abcd"), ("  ", "abcd"), ("age == 2", "b"), ("age != 2", "ad"), ("age<2", "a"),
    ("age <= 2.0", "ab"), ("age > 1e0", "bd"), ("age>=10", "d"), ("age in (1, 10)", "ad"),
    ("age not in (1,10)", "b"), ("site == gut", "a"), ("site != gut", "bd"), ("not site == gut", "bd"),
    ("site in (gut, 'left hand')", "ab"), ('site == "left hand"', "b"), ("'site' == gut", "a"),
    ("code == 1", "a"), ("code == 01", "b"), ("age > 1 and site == skin or code == 1", "ad"),
    ("age > 1 and (site == skin or code == 1)", "d"), ("not (age > 1 and site == skin)", "ab"),
    ("not not age == 1", "a"), ("age == 1 or code == 2", "ac"), ("age > 5 or age <= 5", "abd"),
    ("flag == True and age > 1", "d"), ("age > -1", "abd"),
])
def test_conditions(where, rows):
    out = select(M, where)
    assert out.dtype == bool and "".join(M.index[out]) == rows


@pytest.mark.parametrize("where, says", [
    ("aeg == 1", "'aeg'.*Did you mean 'age'"), ("age", "ends where a comparison"),
    ("age ==", "ends where a"), ("== 1", "where a column should be"),
    ("age = 1", "cannot be read from '= 1'"), ("age == 1 site == gut", "has 'site' where 'and', 'or'"),
    ("(age == 1", r"ends where a '\)'"), ("age == 1)", r"has '\)'"), ("age in 1", r"where a '\(' should be"),
    ("age in ()", "where a value should be"), ("age in (1", r"ends where a '\)'"),
    ("age == old", "numbers, with 'old'"), ("age == nan", "numbers, with 'nan'"),
    ("site > gut", "holds text"), ("site == guts", "Did you mean 'gut'"), ("site != guts", "no sample has"),
    ("age not 1", "where 'in' should be"), ("and age == 1", "where a column should be"),
    ("age == 'x", "cannot be read"), ("age == 1 and", "ends where a"),
    ("__import__('os')", "where a column should be|not among"), ("("*500 + "age == 1", "nested"),
    ("not "*500 + "age == 1", "nested"), ("age == 1 && age == 2", "has '&&'"), ("age == 1; drop", "'1;'"),
])
def test_conditions_that_cannot_be_meant(where, says):
    with pytest.raises(AamError, match=f"The condition .*({says})"): select(M, where)


ATOM = st.one_of(st.tuples(st.just("age"), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
                           st.sampled_from(["1", "2", "3.5", "10"])),
                 st.tuples(st.just("site"), st.sampled_from(["==", "!="]),
                           st.sampled_from(["gut", "'left hand'", "skin"]))).map(" ".join)


def joined(o):
    "Two conditions joined, or one denied."
    two = st.tuples(o, st.sampled_from(["and", "or"]), o).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    return st.one_of(two, o.map(lambda t: f"not ({t})"))


TREE = st.recursive(ATOM, joined, max_leaves=6)


@given(TREE)
def test_conditions_agree_with_pandas(where):
    "Where nothing is missing, the grammar is that of pandas."
    known = M.assign(age=[1., 2., 3.5, 10.], site=["gut", "left hand", "gut", "skin"])
    quoted = where.replace("gut", "'gut'").replace("skin", "'skin'")
    assert select(known, where).tolist() == known.eval(quoted, engine="python").tolist()


@given(st.text("age site()'\"<>=!,andornti120. ", max_size=30))
def test_any_text_is_read_or_refused(where):
    try: assert select(M, where).shape == (4,)
    except AamError: pass


def test_real_conditions(data_dir):
    m = read_metadata(data_dir/"ecam_infant"/"metadata.tsv")
    assert select(m, "is_infant == 1").sum() == 699
    young = select(m, "is_infant == 1 and delivery in (Vaginal) and month_of_life < 6")
    assert young.tolist() == ((m.is_infant == 1) & (m.delivery == "Vaginal") & (m.month_of_life < 6)).tolist()
    with pytest.raises(AamError, match="Did you mean 'Vaginal'"): select(m, "delivery == vaginal")
    with pytest.raises(AamError, match="text"): TargetCodec.fit(m.delivery, task="regression")
    for path in ("ecam_infant/table.biom", "qiime2_files/ibd-table.qza"):
        with pytest.raises(AamError, match=path.split("/")[1]): read_metadata(data_dir/path)
