"Columns that look like subjects are found by name and by values, and other columns are not."
import time

import numpy as np
import pandas as pd
import pytest

from aam_nb.data.metadata import read_metadata
from aam_nb.data.subjects import subject_like


def ids_of(n): return [f"S{i:04d}" for i in range(n)]


def real_metadata(data_dir, name):
    path = data_dir/name/"metadata.tsv"
    if not path.exists(): pytest.skip(f"{path} is absent")
    return read_metadata(path)


def study(n=40, each=3, seed=0, **more):
    who = np.repeat(np.arange(n), each)
    rng = np.random.default_rng(seed)
    base = {"age": rng.uniform(0, 80, n*each).round(1), "day": rng.integers(0, 30, n*each),
            "sex": np.where(rng.random(n) < .5, "f", "m")[who],
            "country": rng.choice(["a", "b", "c"], n)[who],
            "treatment": rng.choice(["drug", "placebo"], n*each)}
    return pd.DataFrame(base | {k: v(who) for k, v in more.items()}, index=ids_of(n*each))


@pytest.mark.parametrize("name", ["subject", "host_subject_id", "hostsubjectid", "HOST_SUBJECT_ID",
                                  "HostSubjectId", "Patient ID", "patient", "PatientNo",
                                  "participant.id", "household", "family_id", "mother_id", "mom_child_id",
                                  "cage", "Mouse", "donor", "anonymized_name"])
@pytest.mark.parametrize("kind", [float, str])
def test_names_of_subjects_are_found(name, kind):
    assert [o for o, _ in subject_like(study(**{name: lambda who: who.astype(kind)}))] == [name]


@pytest.mark.parametrize("name,values", [
    ("Subject", lambda who: np.where(who % 2, "Patient", "Control")),
    ("mom_child", lambda who: np.where(who % 5, "C", "M")),
    ("patient_age", lambda who: who % 7), ("family_history", lambda who: who % 9),
    ("host_taxid", lambda who: who % 6),
    ("household_size", lambda who: 1 + who % 7), ("FAMILY_RELATIONSHIP", lambda who: (who % 22).astype(str)),
    ("host_subject_id", lambda who: np.arange(len(who))), ("subject", lambda who: ["P1"]*len(who)),
    ("subject_id", lambda who: [None]*len(who)), ("month", lambda who: who % 12),
    ("run", lambda who: [f"R{o:02d}" for o in who//4]),
    ("plate_id", lambda who: [f"plate{o}" for o in who//4]),
    ("collection_date", lambda who: [f"2012-03-{o % 28 + 1:02d}" for o in who]),
    ("when", lambda who: [f"2012-03-{o % 28 + 1:02d}" for o in who]),
    ("dose", lambda who: [f"{o % 8}mg" for o in np.arange(len(who))]),
    ("batch code", lambda who: [f"B{o}" for o in who]), ("bmi", lambda who: 20 + who*.5),
    ("diet", lambda who: [f"diet {'abcdefgh'[o % 8]}" for o in who])])
def test_other_columns_raise_no_alarm(name, values):
    assert subject_like(study(**{name: values})) == []


def test_codes_of_any_name_are_found_by_what_they_bring_along():
    found = subject_like(study(who=lambda who: [f"KX{o:03d}" for o in who]))
    assert [o for o, _ in found] == ["who"] and "'sex', 'country' are the same within each" in found[0][1]
    rng = np.random.default_rng(0)
    found = subject_like(study(code=lambda who: [f"KX{o:03d}" for o in rng.permutation(who)]))
    assert found == [], "codes that bring nothing along"


def test_a_single_repeat_in_many_samples_is_no_alarm_and_several_are():
    def repeats(n): return lambda who: [f"P{max(o, n)}" for o in np.arange(len(who))]
    assert subject_like(study(100, 3, subject_id=repeats(1))) == []
    assert len(subject_like(study(100, 3, subject_id=repeats(30)))) == 1


@pytest.mark.parametrize("name,column", [("ecam_infant", "host_subject_id"),
                                         ("ibd_crohns_2538", "host_subject_id"),
                                         ("tiny_ecam60", "host_subject_id")])
def test_real_subjects_are_found_and_nothing_else(name, column, data_dir):
    assert [o for o, _ in subject_like(real_metadata(data_dir, name))] == [column]


def test_hmp_hosts_and_technical_repeats_are_found_in_time(data_dir):
    m = real_metadata(data_dir, "hmp_v35_bodysite")
    begin = time.process_time()
    found = [o for o, _ in subject_like(m)]
    assert time.process_time() - begin < 10 # about 1 s when nothing else runs
    assert "hostsubjectid" in found and "srs" in found
    assert not {"sex", "bmi", "HMPbodysubsite", "Runid", "collectday", "AGE"} & set(found)


@pytest.mark.parametrize("name", ["cfs87", "global_gut"])
def test_independent_real_data_raise_no_alarm(name, data_dir):
    assert subject_like(real_metadata(data_dir, name)) == []
