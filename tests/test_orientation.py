"The inspection finds reads of one table that were turned or moved, and nothing in a clean one."
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from aam_nb.data.related import reverse_complement
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.inspect import inspect_study, quick_checks
from aam_nb.evaluation.orientation import orientation_findings
from aam_nb.types import Study, Table, strings


def study_of(sequences, seed=0):
    "Twenty samples with reads of each sequence."
    counts = np.random.default_rng(seed).integers(1, 50, (20, len(sequences)))
    table = Table(counts=sparse.csr_matrix(counts.astype(np.int32)), sequences=strings(sequences),
                  sample_ids=strings([f"S{i}" for i in range(20)]))
    return Study(table=table)


def words(n, length=100, seed=0):
    letters = np.random.default_rng(seed).choice(list("ACGT"), (n, length))
    return ["".join(o) for o in letters]


def said(study): return [o for o in quick_checks(study) if o.kind == "orientation"]


@pytest.mark.parametrize("turned", [1, 7, 30])
def test_reverse_complements_are_counted(turned):
    known = words(30)
    found = said(study_of([*known, *map(reverse_complement, known[:turned])]))
    assert len(found) == 1 and found[0].severity == "warning" and "Turn all reads one way" in found[0].todo
    are = "ASVs are reverse complements of others" if turned > 1 else "ASV is the reverse complement"
    assert f"{turned} {are}" in found[0].text


def test_turned_and_cut_reads_are_found_too():
    known = words(30)
    found = said(study_of([*known, *(reverse_complement(o)[:90] for o in known[:12])]))
    assert len(found) == 1 and "12 ASVs are reverse complements of others" in found[0].text


@pytest.mark.parametrize("by, what", [(1, "their first base."), (4, "their first 4 bases")])
def test_moved_reads_are_counted(by, what):
    known = words(30)
    found = said(study_of([*known, *(o[by:] for o in known[:9])]))
    assert len(found) == 1 and f"9 ASVs are others without {what}" in found[0].text


def test_a_few_reads_are_a_note():
    study = study_of([*words(30), reverse_complement(words(30)[0])])
    counts = study.table.counts.tolil()
    counts[:, [0, 30]] = 0
    counts[0, [0, 30]] = 1
    few = replace(study, table=replace(study.table, counts=counts.tocsr()))
    assert [o.severity for o in orientation_findings(few)] == ["note"]


def test_beginnings_are_left_to_the_check_of_lengths():
    known = words(30)
    kinds = [o.kind for o in quick_checks(study_of([*known, *(o[:90] for o in known)]))]
    assert "lengths" in kinds and "orientation" not in kinds


@pytest.mark.parametrize("seed", range(6))
def test_clean_studies_raise_no_alarm(seed):
    study = simulate(samples=30, asvs=200, groups=10, length=100, seed=seed)
    assert not orientation_findings(study)


def test_the_report_of_an_inspection_has_it():
    known = words(10)
    text = str(inspect_study(study_of([*known, *map(reverse_complement, known)])))
    assert "10 ASVs are reverse complements of others" in text and "Nothing was found" not in text
