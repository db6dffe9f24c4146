"The leak check finds what is planted and what real studies hold, without being told, and is silent on clean ones."
import re
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from test_report import CHROMIUM, Page

from aam_nb.core import AamError
from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate
from aam_nb.data.split import kfold, split_groups, split_independent
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tokens import sequence_keys
from aam_nb.data.tree import read_tree
from aam_nb.evaluation.alike import ALIKE, CELLS, _chi, _copies, alike
from aam_nb.evaluation.findings import SEVERITIES, _id_series
from aam_nb.evaluation.inspect import _controls, inspect_study, quick_checks
from aam_nb.evaluation.inspect_page import inspection_html, write_inspection
from aam_nb.evaluation.shortcuts import _lab
from aam_nb.types import Split, Study, Table, strings


@cache
def small(): return simulate(samples=120, asvs=200, groups=30, seed=0)


@pytest.fixture
def study(): return small()


@cache
def real(folder, name):
    folder = folder/name
    return make_study(read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv"), read_tree(folder/"tree.nwk"))


def with_counts(study, counts, ids=None):
    counts = sparse.csr_matrix(np.asarray(counts, dtype=np.int32))
    return replace(study, table=replace(study.table, counts=counts, sample_ids=study.ids if ids is None else strings(ids)))


def with_again(study, row, name="again", subject=None, seed=None):
    "One more sample: a copy of one that is there, or with a seed a second draw of it."
    counts = study.table.counts.toarray(); new = counts[row]
    if seed is not None: new = np.random.default_rng(seed).multinomial(new.sum(), new/new.sum())
    metadata = pd.concat([study.metadata, study.metadata.iloc[[row]].set_axis([name])])
    if subject: metadata.loc[name, "subject"] = subject
    return replace(with_counts(study, np.vstack([counts, new]), [*study.ids, name]), metadata=metadata)


def kinds(findings, severity=None): return {o.kind for o in findings if severity in (None, o.severity)}


def text_of(findings, kind): return " ".join(o.text for o in findings if o.kind == kind)


# Clean studies

@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [dict(samples=120, groups=30), dict(samples=60, groups=20, depth=1000), dict(samples=90, groups=90)])
def test_no_alarm_on_a_clean_study(size, seed):
    s = simulate(asvs=150, seed=seed, **size); groups = "subject" if size["groups"] < size["samples"] else ""
    for target in ("age", "site"): assert inspect_study(s, target, groups, seed=seed).alarms == ()
    parts = split_groups(s.ids, s.metadata["subject"], seed=seed)
    folds = kfold(s.ids, 5, s.metadata["subject"], seed=seed)
    assert not kinds(quick_checks(s, "age", groups, split=parts)) and not kinds(quick_checks(s, "age", groups, folds=folds))
    assert not kinds(quick_checks(s, "age", groups, pretrained=sequence_keys(["a", "b"])))


@pytest.mark.parametrize("lacks", [dict(metadata=None), dict(tree=None, tip=None), dict(metadata=None, tree=None, tip=None)])
def test_works_without_metadata_tree_or_target(study, lacks, tmp_path):
    s = replace(study, **lacks); x = inspect_study(s)
    assert x.facts["tree"] == ("none" if "tree" in lacks else "200 tips; 200 of 200 ASVs, with 100.0% of the reads")
    assert kinds(x.findings) == (set() if s.metadata is None else {"groups"}) and quick_checks(s) == list(x.findings)
    page = write_inspection(x, tmp_path); Page(page.read_text())
    if s.metadata is None:
        with pytest.raises(AamError, match="--metadata"): inspect_study(s, "age")
        with pytest.raises(AamError, match="--metadata"): inspect_study(s, groups="subject")


def test_columns_and_ids_that_are_not_there_are_named(study):
    with pytest.raises(AamError, match="no column 'agee' for the target. Did you mean 'age'"): inspect_study(study, "agee")
    with pytest.raises(AamError, match="no column 'subjct' for the groups"): quick_checks(study, "age", "subjct")
    with pytest.raises(AamError, match="'nobody'"): quick_checks(study, folds=[(study.ids[:9], ["nobody"])])


def test_a_column_that_cannot_be_the_target_is_a_finding(study):
    s = replace(study, metadata=study.metadata.assign(same="a", gone=np.nan, name=[f"n{i}" for i in range(120)]))
    for name, why in (("same", "one class only"), ("gone", "missing for all 120"), ("name", "too many to learn")):
        x = inspect_study(s, name, "subject"); assert x.target is None and kinds(x.alarms) == {"target"} and why in text_of(x.alarms, "target")


# Planted leaks

@pytest.mark.parametrize("seed", range(4))
def test_planted_depth_leak(study, seed):
    counts = study.table.counts.toarray(); site = study.metadata["site"].to_numpy(); low = ("gut", "mouth", "skin")[seed % 3]
    counts[site == low] //= 4; s = with_counts(study, counts)
    found = quick_checks(s, "site", "subject", seed=seed); leak, = [o for o in found if o.severity == "leak"]
    assert leak.kind == "depth" and re.search(r"AUC 0\.[6-9]", leak.text) and re.search(r"--depth \d+ loses \d+ of 120", leak.todo)
    assert "depth" not in kinds(quick_checks(s, "age", "subject", seed=seed))


def test_planted_depth_leak_of_a_number(study):
    "Up with the age, and up and down again in the middle: bins see both, where one rank correlation sees the first."
    age = study.metadata["age"].to_numpy(); counts = study.table.counts.toarray()
    for factor in (age/12 + .05, 1 + 30*(age > 16) + 8*(age < 8)):
        found = quick_checks(with_counts(study, counts*factor[:, None]), "age", "subject")
        assert kinds(found, "leak") == {"depth"} and "rank correlation" in text_of(found, "depth")


@pytest.mark.parametrize("redraw", [None, 1])
def test_planted_duplicate_across_folds(study, redraw):
    s = with_again(study, 7, subject="P99", seed=redraw); folds = kfold(s.ids, 5, s.metadata["subject"], seed=3)
    at = {i: k for k, (_, test) in enumerate(folds) for i in test}; apart = at["S007"] != at["again"]
    assert apart # else it is no leak, and another seed is wanted
    found = quick_checks(s, "age", "subject", folds=folds); assert kinds(found, "leak") == {"alike"} and "'S007' and 'again'" in text_of(found, "alike")
    assert "both sides of the split" in text_of(found, "alike")
    together = [(np.setdiff1d(s.ids.astype(str), ["S007", "again"]), ["S007", "again"])]
    assert [o.severity for o in quick_checks(s, "age", "subject", folds=together) if o.kind == "alike"] == ["note"]


def test_planted_duplicate_across_a_split_or_groups(study):
    s = with_again(study, 7, subject="P99"); rest = [o for o in s.ids if o not in ("S007", "again")]
    for parts in (dict(train=["S007"], valid=["again"], test=rest), dict(train=rest, valid=["S007"], test=["again"])):
        assert "alike" in kinds(quick_checks(s, split=Split(**{k: strings(v) for k, v in parts.items()})), "leak")
    assert "different 'subject'" in text_of(quick_checks(s, groups="subject"), "alike")
    inside = quick_checks(with_again(study, 7), groups="subject"); assert [(o.severity, o.kind) for o in inside] == [("note", "alike")]


def test_planted_pretraining_overlap(study):
    keys = sequence_keys(["S003", "S017", "elsewhere"]); parts = split_groups(study.ids, study.metadata["subject"], seed=1)
    every = text_of(quick_checks(study, groups="subject", pretrained=keys), "pretrained"); assert "2 of 120" in every and "'S003', 'S017'" in every
    scored = {*parts.valid, *parts.test}; n = len(scored & {"S003", "S017"})
    found = quick_checks(study, groups="subject", split=parts, pretrained=keys)
    assert (f"{n} of {len(scored)}" in text_of(found, "pretrained")) if n else not kinds(found)
    only = quick_checks(study, groups="subject", split=parts, pretrained=sequence_keys(parts.train)); assert not kinds(only)


def test_planted_run_and_plate(study):
    site = study.metadata["site"]; run = np.where(site == "skin", "R1", "R2")
    s = replace(study, metadata=study.metadata.assign(sequencing_run=run, Plate_ID=[f"plate {i % 4}" for i in range(120)], run_id=run))
    x = inspect_study(s, "site", "subject"); lab, = [o for o in x.findings if o.kind == "lab"]
    assert "'sequencing_run' alone, with 2 values" in lab.text and "Plate_ID" not in lab.text and "data.leave_out=sequencing_run" in lab.todo
    assert [o.name for o in x.shortcuts] == ["depth", "sequencing_run", "Plate_ID"] # run_id says the same as sequencing_run
    assert [o.fires for o in x.shortcuts] == [False, True, False] and "lab" not in kinds(quick_checks(s, "site", "subject"))
    assert not inspect_study(s, "age", "subject").alarms


def test_missing_is_a_value(study):
    s = replace(study, metadata=study.metadata.assign(batch=np.where(study.metadata["site"] == "gut", None, np.arange(120) % 3)))
    assert "'batch'" in text_of(inspect_study(s, "site", "subject").findings, "lab")


def test_groups_that_a_split_cuts(study):
    cut = quick_checks(study, "age", "subject", split=split_independent(study.ids)); assert kinds(cut, "leak") == {"groups"}
    folds = kfold(study.ids, 5); said = text_of(quick_checks(study, folds=folds), "groups")
    assert re.search(r"of 30 values of 'subject' stand on both sides", said)


def test_a_household_runs_through_subjects(study):
    house = [f"H{int(o[1:])//3}" for o in study.metadata["subject"]]; s = replace(study, metadata=study.metadata.assign(household_id=house))
    found = quick_checks(s, "age", "subject"); assert kinds(found, "leak") == {"groups"} and "10 values of 'household_id' run through several" in found[0].text
    assert not kinds(quick_checks(s, "age", "household_id")) # subjects lie inside households
    assert "--groups household_id" in quick_checks(s, "age")[0].todo


def test_series_in_time_and_missing_groups(study):
    s = replace(study, metadata=study.metadata.assign(day_of_life=np.arange(120) % 4))
    assert "'day_of_life' runs within them" in quick_checks(s)[0].text and "series" not in quick_checks(study)[0].text
    m = study.metadata.copy(); m.loc["S001", "subject"] = None
    assert "1 of 120 samples have no 'subject'" in text_of(quick_checks(replace(study, metadata=m), groups="subject"), "groups")


def test_target_that_never_varies_within_a_group(study):
    m = study.metadata.assign(kind=[("a", "b")[int(o[1:]) % 2] for o in study.metadata["subject"]])
    assert [(o.kind, o.severity) for o in quick_checks(replace(study, metadata=m), "kind", "subject")] == [("constant", "note")]
    few = replace(study, table=study.table.samples(slice(0, 40)), metadata=m.iloc[:40])
    found = quick_checks(few, "kind", "subject"); assert "10 independent observations, not 40" in text_of(found, "constant") and found[0].severity == "warning"
    rare = replace(study, metadata=study.metadata.assign(kind=["x", *"yz"*59, "y"]))
    assert "'x' occurs in fewer than three groups" in text_of(quick_checks(rare, "kind", "subject"), "target")


def test_controls(study):
    ids = ["BLANK.1", "extraction-control.2", "NTC3", "mock_4", *study.ids[4:]]
    found, = _controls(replace(study, table=replace(study.table, sample_ids=strings(ids)))); assert found.text.startswith("4 samples")
    m = study.metadata.assign(sample_type=["control blank", "Zymo D6300", *["stool"]*118], state=["Control", "Case"]*60)
    found, = _controls(replace(study, metadata=m)); assert "2 samples" in found.text and "'sample_type'" in found.text
    assert not _controls(replace(study, metadata=study.metadata.assign(state=["Control", "Case"]*60))) # cases and controls


def test_table_checks(study):
    counts = study.table.counts.toarray(); counts[[3, 9]] = 0; s = with_counts(study, counts)
    assert "2 of 120 samples have no reads" in text_of(quick_checks(s, "site", "subject"), "empty") and not inspect_study(s, "site", "subject").alarms
    seqs = study.table.sequences.copy(); seqs[1] = seqs[0][:80]; cut = replace(study, table=replace(study.table, sequences=seqs))
    assert "a longer ASV: 1 ASV, with lengths of 80 to 100 bases" in text_of(quick_checks(cut, groups="subject"), "lengths")
    tip = study.tip.copy(); tip[:100] = -1
    assert "of the reads are in ASVs that the tree does not have" in text_of(quick_checks(replace(study, tip=tip), groups="subject"), "tree")


def test_ids_in_series():
    assert _id_series([f"10249.C{i//3:03}.{i % 3:02}SS" for i in range(60)]) and _id_series([f"P{i//2}-{i % 2}" for i in range(40)])
    for ids in ([f"S{i:03}" for i in range(60)], [f"study.{i}" for i in range(60)], [f"{s}.{i}" for s in ("gut", "oral") for i in range(30)],
                [f"1.SKB{i}.640{i}" for i in range(60)]): assert not _id_series(ids)


# One sample read twice

def two(x, y):
    counts = sparse.csr_matrix(np.stack([x, y]).astype(np.int32))
    return Table(counts=counts, sample_ids=strings(["a", "b"]), sequences=strings([f"A{'C'*i}" for i in range(len(x))]))


@given(st.integers(0, 10**6), st.integers(10, 60), st.integers(300, 30_000), st.integers(300, 30_000), st.floats(0, .6))
def test_the_bound_rules_out_nothing_that_is_alike(seed, asvs, n, m, noise):
    "The quick bound against the full comparison, and chi-squared against its definition."
    rng = np.random.default_rng(seed); p = rng.dirichlet(np.ones(asvs)); q = p*np.exp(rng.normal(0, noise, asvs)); q /= q.sum()
    x, y = rng.multinomial(n, p), rng.multinomial(m, q); both = x + y > 0; well = x + y >= 10
    term = (np.sqrt(m/n)*x - np.sqrt(n/m)*y)[both]**2/(x + y)[both]; table = two(x, y)
    every, some, cells = (o[0] for o in _chi(table.counts, np.array([0]), np.array([1])))
    assert np.isclose(every, term.sum()/(both.sum() - 1)) and np.isclose(some, term[well[both]].sum()/max(1, well.sum() - 1)) and cells == well.sum()
    assert term.sum() >= 2*min(n, m)*(1 - np.sqrt(x/n*(y/m)).sum()) - 1e-6
    affinity = np.sqrt(x/n*(y/m)).sum(); rich = min((x > 0).sum(), (y > 0).sum()) >= CELLS
    wanted = rich and every <= ALIKE and some <= ALIKE and cells >= CELLS and affinity >= .5
    assert bool(len(alike(table)[0])) == wanted


def test_two_draws_of_one_community_have_chi_squared_one():
    rng = np.random.default_rng(0); p = rng.dirichlet(np.ones(80))
    chi = [_chi(sparse.csr_matrix(np.stack([rng.multinomial(n, p) for n in (4000, 9000)])), np.array([0]), np.array([1]))[0][0] for _ in range(60)]
    assert abs(np.mean(chi) - 1) < .06 and max(chi) < ALIKE


def test_blocks_do_not_matter(study, monkeypatch):
    s = with_again(with_again(study, 7, "x"), 50, "y", seed=2); pairs, chi = alike(s.table)
    assert pairs.tolist() == [[7, 120], [50, 121]] and chi[0] == 0
    shuffled = np.random.default_rng(0).permutation(122); again, _ = alike(s.table.samples(shuffled))
    assert {tuple(sorted(s.ids[shuffled][o])) for o in again} == {("S007", "x"), ("S050", "y")}
    import aam_nb.evaluation.alike as page
    monkeypatch.setattr(page, "PAIRS_AT_ONCE", 122*7); assert alike(s.table)[0].tolist() == pairs.tolist()


def test_poor_communities_are_never_called_alike():
    rng = np.random.default_rng(0); counts = rng.multinomial(1000, [.97, .01, .01, .01], 30)
    t = Table(counts=sparse.csr_matrix(counts.astype(np.int32)), sample_ids=strings(range(30)), sequences=strings(["A", "C", "G", "T"]))
    assert not len(alike(t)[0]) and not inspect_study(Study(table=t)).findings


def test_copies_in_a_study_too_large_for_pairs(study):
    s = with_again(with_again(study, 7, "x"), 7, "y"); assert _copies(s.table)[0].tolist() == [[7, 120], [7, 121]]
    found = quick_checks(s, groups="subject", most=50); assert "only exact copies" in found[0].text and len(found) == 2 and "2 pairs" in found[1].text
    assert "only exact copies" in text_of(inspect_study(study, groups="subject", most=50).findings, "alike")


def test_technical_repeats_are_named_by_the_column_that_explains_them():
    rng = np.random.default_rng(0); base = simulate(samples=60, groups=60, seed=1).table.counts.toarray()
    counts = np.concatenate([base, *([rng.multinomial(o.sum(), o/o.sum())] for o in base[:20])])
    s = simulate(samples=80, groups=80, seed=1); m = pd.DataFrame({"tube": [*range(60), *range(20)], "half": np.arange(80) % 2}, index=s.ids)
    found = text_of(inspect_study(replace(with_counts(s, counts), metadata=m)).findings, "alike")
    assert "20 pairs" in found and "'tube' is the same in 20 of them" in found


# Shortcuts

def test_laboratory_columns():
    yes = ["run", "Run_ID", "RunID", "RUNCENTER", "plate_number", "seq batch", "extraction_kit_lot", "SEQUENCING_DATE", "instrument_model", "Platform",
           "EXPERIMENTCENTER", "RUN_LANE", "library_prep_plate", "flowcell"]
    no = ["pool_frequency", "running", "run_per_week", "site", "trunk", "brunch", "airplane", "pilot", "kitchen_type", "centered_age", "BarcodeSequence"]
    found = _lab(pd.DataFrame({o: np.arange(300)//(i + 2) % 7 for i, o in enumerate(yes + no)}))
    assert set(found) == set(yes)
    assert not _lab(pd.DataFrame(dict(run=np.arange(60), plate=1, batch=np.nan))) and not _lab(None)


# Real studies

def test_ecam(data_dir):
    s = real(data_dir, "ecam_infant"); found = quick_checks(s, "month_of_life")
    assert kinds(found, "leak") == {"groups", "alike"} and "'host_subject_id'" in text_of(found, "groups") and "series in time" in text_of(found, "groups")
    found = quick_checks(s, "delivery", "host_subject_id"); assert "42 independent observations, not 741" in text_of(found, "constant")
    assert "different 'host_subject_id'" in text_of(found, "alike") # four pairs of infants or mothers share a sample
    bare = inspect_study(replace(s, metadata=None, tree=None, tip=None)); assert "'10249.C001'" in text_of(bare.findings, "ids")


def test_ibd(data_dir):
    s = real(data_dir, "ibd_crohns_2538")
    assert "'host_subject_id'" in text_of(quick_checks(s), "groups") and "--groups host_subject_id" in quick_checks(s)[0].todo
    x = inspect_study(s, "ibd", "host_subject_id"); assert kinds(x.findings, "leak") == {"depth"} and x.shortcuts[0].value > .95
    assert "24 independent observations, not 449" in text_of(x.findings, "constant")


def test_hmp(data_dir):
    s = real(data_dir, "hmp_v35_bodysite"); start = time.process_time(); x = inspect_study(s, "HMPbodysupersite"); seconds = time.process_time() - start
    said = text_of(x.findings, "alike"); host = s.metadata["hostsubjectid"].to_numpy(); i, j = x.pairs.T
    assert kinds(x.findings, "leak") >= {"groups", "alike"} and "technical repeats" in said and len(x.pairs) > 500
    assert (host[i] == host[j]).all() and (s.metadata["srs"].to_numpy()[i] == s.metadata["srs"].to_numpy()[j]).mean() > .6
    inside = inspect_study(s, groups="hostsubjectid").findings; assert kinds(inside) == {"alike"} and inside[0].severity == "note"
    assert seconds < 60


def test_others(data_dir):
    x = inspect_study(real(data_dir, "global_gut"), "country"); assert "'RUN_PREFIX' alone, with 14 values" in text_of(x.findings, "lab")
    assert not inspect_study(real(data_dir, "cfs87"), "Subject").alarms
    assert not inspect_study(real(data_dir, "tiny_ecam60"), "month_of_life", "host_subject_id").alarms


# The page

@cache
def planted():
    s = with_again(small(), 7, "<b>again</b>", subject="P99"); site = s.metadata["site"]
    s = replace(s, metadata=s.metadata.assign(run=np.where(site == "skin", "R<1>", "R2")), notes=("a note & more",))
    return inspect_study(s, "site", "subject", split=split_independent(s.ids), pretrained=sequence_keys(["S003"]))


@cache
def pages():
    s = small()
    return dict(planted=inspection_html(planted(), "<script>alert(1)</script>"), calm=inspection_html(inspect_study(s, "age", "subject")),
                bare=inspection_html(inspect_study(replace(s, metadata=None, tree=None, tip=None))), unguarded=inspection_html(inspect_study(s, "site")))


@pytest.mark.parametrize("name", ["planted", "calm", "bare", "unguarded"])
def test_page_is_well_formed_and_fetches_nothing(name):
    text = pages()[name]; p = Page(text); ids = [o["attrs"]["id"] for o in p.all if "id" in o["attrs"]]
    assert len(ids) == len(set(ids)) and len(p.tags("h1")) == 1 and not p.tags("script") and not p.tags("b") and "Inspection by aam_nb" in text
    links = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text); assert links and set(links) <= set(ids)
    assert all(v.startswith(("#", "data:")) for o in p.all for k, v in o["attrs"].items() if k in ("src", "href", "xlink:href"))
    for o in p.tags("svg"): assert o["inside"][0]["tag"] == "title" and len(o["inside"][0]["text"]) > 25
    assert "nan" not in "".join(p.text).lower().split() and len(text) < 300_000 and "default-src 'none'" in text


def test_page_says_findings_first_and_what_to_do():
    text = " ".join("".join(Page(pages()["planted"]).text).split())
    for o in planted().findings: assert " ".join(o.text.split()) in text and o.todo in text
    assert text.index("stand on both sides") < text.index("Reads of a sample") and "a note & more" in text
    assert "Nothing was found that would make a score too good" in pages()["calm"]


def test_written_files(tmp_path):
    x = planted(); page = write_inspection(x, tmp_path/"a"/"b"); folder = page.parent
    assert sorted(o.name for o in folder.iterdir()) == ["alike.tsv", "findings.tsv", "inspect.html"]
    rows = pd.read_csv(folder/"findings.tsv", sep="\t")
    assert list(rows.severity) == [o.severity for o in x.findings] and list(rows.finding) == [o.text for o in x.findings]
    pairs = pd.read_csv(folder/"alike.tsv", sep="\t"); assert list(pairs.iloc[0]) == ["S007", "<b>again</b>", 0]
    said = str(x); assert all(str(o) in said for o in x.findings) and said.startswith("table ") and x.verdict in said and x.verdict in repr(x)
    assert sorted(x.findings, key=lambda o: SEVERITIES.index(o.severity)) == list(x.findings)


def test_the_same_twice():
    s = small(); assert inspection_html(inspect_study(s, "site", "subject", seed=3)) == inspection_html(inspect_study(s, "site", "subject", seed=3))


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
def test_chromium_shows_the_page(tmp_path):
    sync = pytest.importorskip("playwright.sync_api").sync_playwright
    path = tmp_path/"inspect.html"; path.write_text(pages()["planted"])
    with sync() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        tab = browser.new_page(viewport=dict(width=420, height=900)); problems = []; tab.on("console", lambda m: problems.append(m.text))
        tab.goto(path.as_uri()); assert not problems and tab.evaluate("document.documentElement.scrollWidth") <= 420
        assert tab.locator("figure svg").first.bounding_box()["width"] > 300; browser.close()
