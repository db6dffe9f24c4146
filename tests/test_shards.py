"A model that is shared out among processes trains as one process does, and can be made whole again."
import os
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from model_cases import asvs, batch_of, model_for, random_samples
from shares import apart, averaged, gradients, on_cpu

from aam_nb.core import AamError
from aam_nb.model.layers import set_recompute
from aam_nb.sections import RunConfig
from aam_nb.training import shard
from aam_nb.training.optim import Ema
from aam_nb.training.ranks import several
from aam_nb.training.shard import local, sharded
from aam_nb.training.shard_plan import check_shards, shard_environment, shard_plugin, shards_asked

TOKENS = asvs(12, (24, 18))


def made(seed=0, dropout=0., **given):
    "A small model in float64 and in training mode, with a set transformer and two heads."
    torch.manual_seed(seed)
    return model_for("attention", layers=3, dropout=dropout, **given).double().train()


def learn(model, tokens, seed=0):
    "Add the gradient of a loss that goes through the encoder twice, in two ways."
    torch.manual_seed(seed)
    masked = tokens.clone()
    masked[:, :6] = 5
    total = model.tree_distance(model.encode(tokens)).square().sum()
    (total + model.masked_bases(masked)[0].square().sum()).backward()


def parts(rank, step):
    "What one of several processes learns from: two chunks, and the second one is empty on all but the first."
    start = 3*rank + step % 2
    return TOKENS[start:start + 3], TOKENS[start:start + (2 if rank == 0 else 0)]


def trained(ranks, steps, dropout=0., recompute=False, **run):
    "What differs after some steps from one process that learns from all parts."
    accelerator = on_cpu(**run)
    shards, whole = sharded(made(dropout=dropout), accelerator), made(dropout=dropout)
    for o in (shards.model, whole): set_recompute(o, recompute)
    makers = shards.own.items(), whole.named_parameters()
    pairs = [list(o) for o in makers]
    optimizers = [torch.optim.AdamW([p for _, p in o], lr=1e-3, fused=True) for o in pairs]
    averages, worst = [Ema(o, .9) for o in pairs], dict(grad=0., norm=0., seen=0.)
    for step in range(steps):
        for o in optimizers: o.zero_grad()
        for o in parts(ranks.rank, step): learn(shards.model, o, step)
        for rank in range(ranks.world):
            for o in parts(rank, step): learn(whole, o, step)
        ranks.average(shards.plain, torch.zeros(0))
        averaged(whole, ranks.world)
        worst["grad"] = max(worst["grad"], apart(gradients(shards.model), gradients(whole)))
        shards.hand()
        norms = shards.clip(5., ranks), torch.nn.utils.clip_grad_norm_(whole.parameters(), 5.)
        worst["norm"] = max(worst["norm"], abs(float(norms[0]/norms[1]) - 1))
        for o in optimizers: o.step()
        for o in averages: o.update()
        with torch.no_grad(), averages[0].applied(), averages[1].applied(), shards.whole() as model:
            seen = [o.eval().encode(TOKENS) for o in (model, whole)]
        for o in (shards.model, whole): o.train()
        worst["seen"] = max(worst["seen"], float((seen[0] - seen[1]).abs().max()))
    worst["weights"] = apart(shards.model.parameters(), whole.parameters())
    return worst


def same(worst):
    "That nothing differs. AdamW divides by the size of a gradient, so rounding grows where it should be 0."
    assert worst["grad"] < 1e-12 and worst["norm"] < 1e-12, worst
    assert worst["weights"] < 1e-10 and worst["seen"] < 1e-10, worst


@pytest.mark.parametrize("world", [2, 3])
def test_training_equals_one_process(world):
    for worst in several(partial(trained, steps=6), world): same(worst)


@pytest.mark.parametrize("how", [dict(dropout=.3), dict(dropout=.3, recompute=True), dict(offload=True)])
def test_dropout_recomputing_and_offloading_change_nothing(how):
    for worst in several(partial(trained, steps=3, **how)): same(worst)


def kept(ranks):
    "As `trained`, where collected weights are kept after a look."
    @contextmanager
    def whole(self): yield self.model
    shard.Shards.whole = whole
    return trained(ranks, 4)


def test_without_letting_go_after_a_look_training_is_wrong():
    for worst in several(kept): assert worst["weights"] > 1e-3, worst


def closed(ranks):
    "What happens when a model is used through a method that was not named."
    shard.WAYS_IN = ("masked_bases",)
    try: sharded(made(), on_cpu()).model.encode(TOKENS)
    except RuntimeError as e: return str(e)
    return "nothing"


def test_a_method_that_is_not_named_meets_parts():
    assert all("DTensor" in o for o in several(closed))


def joined(ranks):
    "What a model is like after it was shared out and joined, and how much a process held in between."
    model, other = made(3).freeze_layers(1), made(3).freeze_layers(1)
    before, names = model, [n for n, p in model.named_parameters() if p.requires_grad]
    sharded(model, on_cpu()).join() # As a stage before has it
    shards = sharded(model, on_cpu())
    held = sum(local(p).numel() for p in model.parameters())/sum(p.numel() for p in model.parameters())
    again = shards.join()
    batch = batch_of(random_samples(5, 12), TOKENS)
    batch = type(batch)(**{k: v.double() if getattr(v, "dtype", None) == torch.float32 else v
                           for k, v in vars(batch).items()})
    outs = [o.eval()(batch) for o in (again, other)]
    return dict(same=again is before, kind=type(again).__name__, held=held, still=again.still,
                trains=[n for n, p in again.named_parameters() if p.requires_grad] == names,
                state=list(again.state_dict()) == list(other.state_dict()),
                equal=all(torch.equal(a, b) for a, b in zip(again.state_dict().values(),
                                                           other.state_dict().values(), strict=True)),
                out=torch.equal(outs[0].target, outs[1].target))


def test_a_joined_model_is_an_ordinary_model_again():
    for o in several(joined):
        assert o["same"] and o["kind"] == "AamModel" and o["still"] == 1
        assert o["trains"] and o["state"] and o["equal"] and o["out"]
        assert .48 < o["held"] < .52


def from_main(ranks):
    "Weights of processes that began with other ones: all have those of the main process."
    mine = made(ranks.rank)
    mine.encoder.centre += ranks.rank
    shards = sharded(mine, on_cpu())
    return [apart(getattr(shards.model, o)(), getattr(made(0), o)()) for o in ("parameters", "buffers")]


def test_the_main_process_has_the_weights():
    assert several(from_main) == [[0., 0.], [0., 0.]]


def rows(ranks):
    "Whether the rows of all processes are those of the whole, in order."
    shards, whole = sharded(made(), on_cpu()), dict(made().named_parameters())
    own = {n: local(p).detach() for n, p in shards.model.named_parameters()}
    at = shards.rows(ranks)
    return [torch.equal(own[n], whole[n][a:a + k]) and t == len(whole[n]) for n, (a, k, t) in at.items()]


def test_rows_are_named_as_they_are_held():
    for o in several(rows, 4): assert all(o) and len(o) > 40


def test_one_process_shares_out_to_itself():
    same(several(partial(trained, steps=2), 1)[0])


LAUNCHED = dict(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")


def test_who_asks_for_shards():
    assert not shards_asked(RunConfig(), {}) and shards_asked(RunConfig(shard="fsdp"), {})
    assert shards_asked(RunConfig(), LAUNCHED) and not shards_asked(RunConfig(), dict(FSDP_VERSION="1"))
    with pytest.raises(AamError, match="asks for FSDP version 1; wanted version 2"):
        shards_asked(RunConfig(), dict(ACCELERATE_USE_FSDP="true"))
    with pytest.raises(AamError, match="draws dropout anew"):
        shards_asked(RunConfig(), LAUNCHED | dict(FSDP_ACTIVATION_CHECKPOINTING="true"))


def test_what_accelerate_is_told():
    from torch.distributed.fsdp import CPUOffloadPolicy
    offload = shard_plugin(RunConfig(shard="fsdp", offload=True), {}).cpu_offload
    by_launcher = shard_plugin(RunConfig(), LAUNCHED | dict(FSDP_OFFLOAD_PARAMS="true"))
    assert isinstance(offload, CPUOffloadPolicy) and isinstance(by_launcher.cpu_offload, CPUOffloadPolicy)
    plain = shard_plugin(RunConfig(shard="fsdp"), {})
    assert not isinstance(plain.cpu_offload, CPUOffloadPolicy) and plain.fsdp_version == 2
    assert plain.mixed_precision_policy.param_dtype is None and not plain.activation_checkpointing
    assert shard_plugin(RunConfig(), {}) is None


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "no")
    monkeypatch.delenv("FSDP_OFFLOAD_PARAMS", raising=False)
    with pytest.raises(KeyError), shard_environment(shard_plugin(RunConfig(shard="fsdp", offload=True), {})):
        assert os.environ["ACCELERATE_USE_FSDP"] == os.environ["FSDP_OFFLOAD_PARAMS"] == "true"
        raise KeyError
    assert os.environ["ACCELERATE_USE_FSDP"] == "no" and "FSDP_OFFLOAD_PARAMS" not in os.environ
    with shard_environment(None): assert os.environ["ACCELERATE_USE_FSDP"] == "no"


def test_asked_for_and_not_given_is_an_error():
    accelerator = Accelerator(cpu=True)
    check_shards(accelerator, None)
    with pytest.raises(AamError, match="would train on cpu in the way 'NO'"):
        check_shards(accelerator, shard_plugin(RunConfig(shard="fsdp"), {}))
    assert sharded(made(), accelerator) is None
