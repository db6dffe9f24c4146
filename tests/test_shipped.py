"""The encoder that comes with the package: whole, small, with its notice, and taken by name in place of
pretraining."""
from pathlib import Path

import numpy as np
import pytest

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.shipped import bases_right, find_bundle, SHIPPED
from aam_nb.recipe import load_config
from aam_nb.runs.start import reference_note, start_bundle
from aam_nb.training.log import read_log


@pytest.fixture(scope="module")
def shipped(): return load_bundle(find_bundle("reference"))


def test_it_is_whole_small_and_says_where_it_comes_from(shipped):
    files = [o for o in SHIPPED.rglob("*") if o.is_file()]
    assert sum(o.stat().st_size for o in files) < 3e6
    card, notice = (SHIPPED/"reference/README.md").read_text(), (SHIPPED/"NOTICE.md").read_text()
    for o in ("CC BY-SA 3.0", "Greengenes", "ismej.2011.139", "no sample, no label"): assert o in card
    for o in ("Attribution-ShareAlike 3.0", "McDonald D", "qiime-default-reference"): assert o in notice
    assert not len(shipped.known) and not len(shipped.samples) and shipped.targets is None
    said = (SHIPPED/"reference/config.json").read_text() + card
    assert "/tmp" not in said and "/work" not in said and "/home" not in said


def test_it_knows_v4_and_turned_v4_and_no_made_up_letters(shipped):
    from aam_nb.batches.bases import reverse_complement
    from aam_nb.data.tokens import tokenize
    coli = ("TACGGAGGGTGCAAGCGTTAATCGGAATTACTGGGCGTAAAGCGCACGCAGGCGGTTTGTTAAGTCAGATGTGAAATCCCCGGGCTCAACCTG"
            "GGAACTGCATCTGATACTGGCAAGCTTGAGTCTCGTAGAGGGGGGTAGAATTCCAGG") # E. coli, behind 515F
    known = tokenize([coli]*64)
    made_up = tokenize(["".join(o) for o in np.random.default_rng(0).choice([*"ACGT"], (64, 150))])
    assert bases_right(shipped, known) > .6 > .45 > bases_right(shipped, made_up)
    far = shipped.model.encode
    import torch
    vectors = far(torch.from_numpy(np.concatenate([known[:1], reverse_complement(known[:1])]))).detach()
    assert torch.isfinite(vectors).all()


def test_a_folder_of_that_name_comes_first_and_others_are_left_alone(tmp_path, monkeypatch):
    assert find_bundle("reference") == SHIPPED/"reference"
    for o in ("runs/x/bundle", "../reference", ".", ""): assert find_bundle(o) == Path(o)
    monkeypatch.chdir(tmp_path)
    (tmp_path/"reference").mkdir()
    assert find_bundle("reference") == Path("reference")


def test_asvs_that_are_too_long_and_other_sizes_are_refused(shipped):
    config = load_config("small", ("run.start=reference",))
    assert start_bundle(config, bases=256).model.bases == 256
    with pytest.raises(AamError, match="up to 257 bases; the bundle reference reads up to 256"):
        start_bundle(config, bases=257)
    with pytest.raises(AamError, match="another ASV encoder .*model.patch=6"):
        start_bundle(load_config("aam", ("run.start=reference",)), bases=100)


def test_the_note_names_source_and_licence_and_what_cannot_be_read(shipped):
    store = build_store(simulate(samples=8, asvs=40, groups=4, length=120, seed=1))
    text = reference_note(shipped, store)
    for o in ("CC BY-SA 3.0", "no sample of any study", "hidden bases of these ASVs"): assert o in text


def test_an_evaluation_that_starts_from_it_does_not_pretrain_and_needs_no_tree(tmp_path):
    from aam_nb.runs.evaluate import evaluate_run
    study = simulate(samples=40, asvs=40, groups=10, length=100, seed=6)
    study = type(study)(table=study.table, metadata=study.metadata)
    config = config_from({"data": dict(target=["age"], groups="subject"),
                          "run": dict(start="reference", out=str(tmp_path/"run"), folds=2, inner=2),
                          "optim": dict(steps=6, batch=8, every=3)})
    said = []
    evaluate_run(config, said.append, study)
    stages = {o["stage"] for o in read_log(tmp_path/"run/metrics.jsonl")}
    assert stages and not any("pretrain" in o for o in stages)
    assert any("CC BY-SA 3.0" in o for o in said), "the licence is told"
