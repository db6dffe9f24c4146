"The ridge regression beside the net, against scikit-learn on centred log ratios, and its say in the outputs."
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge

from aam_nb.data.simulate import simulate
from aam_nb.model.aam import AamModel
from aam_nb.model.ridge import RidgePart
from aam_nb.sections import ModelConfig
from aam_nb.stack.features import clr
from aam_nb.stack.log_ratios import class_weights, number_weights
from aam_nb.types import Column, SampleReads

STUDY = simulate(samples=90, asvs=120, groups=30, seed=3)
COUNTS, TRAIN, TEST = STUDY.table.counts.tocsr(), np.arange(60), np.arange(60, 90)


def reads_of(counts):
    "Samples as a model reads them; all ASVs are known."
    x = counts.tocoo()
    asv, sample = (torch.from_numpy(np.asarray(o, dtype=np.int64)) for o in (x.col, x.row))
    return SampleReads(asv=asv, counts=torch.from_numpy(x.data).double(), sample=sample, size=x.shape[0],
                       distinct=x.shape[1], place=torch.arange(x.shape[1]))


def part_of(model):
    "The part of a net that holds these weights."
    part = RidgePart(model.weight.shape[1], len(model.weight)).double()
    part.weight.copy_(torch.from_numpy(model.weight))
    part.bias.copy_(torch.from_numpy(model.bias))
    return part


def penalty(multiple):
    "A multiple of the mean squared length of the training samples as scikit-learn's penalty."
    x = clr(COUNTS[TRAIN])
    return multiple*((x - x.mean(0))**2).sum()/len(TRAIN)


@pytest.mark.parametrize("multiple", [.01, 1.])
def test_a_number_is_what_ridge_says(multiple):
    y = STUDY.metadata["age"].to_numpy(float)[TRAIN]
    wanted = Ridge(alpha=penalty(multiple)).fit(clr(COUNTS[TRAIN]), y).predict(clr(COUNTS[TEST]))
    [model] = number_weights(COUNTS[TRAIN], y, np.array([multiple]))
    np.testing.assert_allclose(part_of(model)(reads_of(COUNTS[TEST])).numpy()[:, 0], wanted, rtol=1e-6)


def test_classes_are_what_logistic_regression_says():
    y = np.unique(STUDY.metadata["site"].to_numpy(str), return_inverse=True)[1][TRAIN]
    plain = LogisticRegression(C=1/penalty(1.), tol=1e-8, max_iter=5000).fit(clr(COUNTS[TRAIN]), y)
    [model] = class_weights(COUNTS[TRAIN], y, y.max() + 1, np.array([1.]))
    found = softmax(part_of(model)(reads_of(COUNTS[TEST])).numpy(), axis=1)
    np.testing.assert_allclose(found, plain.predict_proba(clr(COUNTS[TEST])), atol=1e-3)


def test_asvs_that_training_did_not_know_add_nothing():
    [model] = number_weights(COUNTS[TRAIN], np.arange(60.), np.array([1.]))
    part, reads = part_of(model), reads_of(COUNTS[TEST])
    lost = reads.place.clone()
    lost[::2] = -1
    kept = COUNTS[TEST].copy().tolil()
    kept[:, ::2] = 0
    torch.testing.assert_close(part(replace(reads, place=lost)), part(reads_of(kept.tocsr())))


def test_it_has_its_share_in_evaluation_and_none_in_training():
    column = Column(name="age", task="regression", outputs=1)
    config = ModelConfig(width=8, heads=2, layers=1, sample_width=8, identity=0, head_dropout=0.)
    net, reads = AamModel(config, 12, columns=(column,), known=120), reads_of(COUNTS[TEST])
    reads, asv = replace(reads, counts=reads.counts.float()), torch.randn(120, 8)
    net.ridge.bias.fill_(5.)
    alone = net.eval().from_embeddings(asv, reads).target
    net.ridge.share.fill_(.25)
    torch.testing.assert_close(net.from_embeddings(asv, reads).target, .75*alone + .25*5)
    torch.testing.assert_close(net.train().from_embeddings(asv, reads).target, alone)
    assert AamModel(replace(config, ridge=0.), 12, columns=(column,), known=120).ridge is None
