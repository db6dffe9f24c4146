"""The net alone beside the plain models, on the same folds of real studies, and what each change brings.

    python benchmarks/net.py run now month delivery run.start=reference   # two tasks, two seeds each
    python benchmarks/net.py run before month model.ridge=0 model.identity=64 augment.mixup=.4 run.refit=0
    python benchmarks/net.py table > benchmarks/results/net.md  # all that was run, or tasks named

The first word after `run` names the variant (`now` or `before` for the table), then come tasks (all where
none is named) and settings. The folds are those of `aam evaluate small` with the seed; each run is kept in
the folder of --out and is not made again. What the net says and what its ridge regression says is kept apart,
so that the steps between `before` and `now` (STEPS) are all read from those two. AAM_DATA names the folder of
studies (default ../shared/data).
"""
import argparse
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
SEEDS = (42, 11)
INFANTS = dict(study="ecam_infant", groups="host_subject_id", where="is_infant == 1")
GUT = dict(study="global_gut", groups="household", missing="drop")
TASKS = dict(
    month=dict(INFANTS, target="month_of_life"), delivery=dict(INFANTS, target="delivery"),
    age=dict(GUT, target="age_years"), country=dict(GUT, target="country"),
    hmp=dict(study="hmp_v35_bodysite", groups="hostsubjectid", target="HMPbodysubsite", missing="drop"),
    cfs=dict(study="cfs87", independent=True, target="Subject"),
    cfs_age=dict(study="cfs87", independent=True, target="Age"),
    ibd=dict(study="ibd_crohns_2538", groups="host_subject_id", target="ibd", depth=4000))


def household(name):
    "The household of a sample of global_gut: the letters and the number that its name begins with."
    letters, number = re.match(r"([A-Za-z]+?)(\d+)", name).groups()
    return f"{letters}{(int(number) - 1)//3 if letters == 'TS' else number}" # TS: twins, mother


def some_hosts(metadata, most=1200):
    "The samples of hosts that were drawn until there are so many."
    hosts = np.sort(metadata.hostsubjectid.unique())
    np.random.default_rng(0).shuffle(hosts)
    before = metadata.hostsubjectid.value_counts()[hosts].cumsum().shift(fill_value=0)
    return metadata[metadata.hostsubjectid.isin(before.index[before < most])]


def files(task, out):
    "The section [data] of a task; metadata that are changed are written below `out`."
    import pandas as pd
    data = dict(TASKS[task])
    folder = DATA/data.pop("study")
    found = dict(table=folder/"table.biom", metadata=folder/"metadata.tsv", tree=folder/"tree.nwk")
    if task in ("age", "country", "hmp"):
        metadata = pd.read_csv(found["metadata"], sep="\t", low_memory=False)
        if task == "hmp": metadata = some_hosts(metadata)
        else: metadata["household"] = [household(o) for o in metadata.PUBLICATION_ALIAS]
        columns = ["sample_id", data["groups"], data["target"]]
        found["metadata"] = out/f"{task}.tsv"
        metadata[columns].to_csv(found["metadata"], sep="\t", index=False)
    return {k: str(v) for k, v in found.items()} | data


def prepared(task, seed, settings, out):
    "A study with its folds, at the depth of the task."
    from aam_nb.recipe import load_config
    from aam_nb.runs.parts import choose_folds
    from aam_nb.runs.prepare import prepare
    given = {f"data.{k}": [v] if k == "target" else v for k, v in files(task, out).items()}
    given |= {"run.out": str(out/f"work-{seed}"), "run.seed": seed}
    fixed = ("run.threads=1", "run.trackers=[]", "run.overwrite=true")
    ready = prepare(load_config("small", (*fixed, *settings), given), choose_folds, say=lambda text: None)
    return replace(ready, bench=replace(ready.bench, folder=None, log=None, cache=None))


def kept(path, make):
    "Arrays that were made before, or are made now and kept."
    if not path.exists():
        begun = time.process_time()
        arrays = make()
        np.savez(path, **arrays, cpu=time.process_time() - begun)
        print(path.stem, f"{time.process_time() - begun:.0f} s of one core", flush=True)
    with np.load(path) as found: return dict(found)


def plain(ready):
    "What the plain models predict, and how long they took: by method and fold."
    from aam_nb.evaluation.validate import PlainFolds, Plan
    plan = Plan(groups=ready.groups, folds=ready.parts.outer, seed=ready.bench.config.run.seed, threads=1)
    folds = PlainFolds(ready.study, ready.values, plan)
    return {f"{name} {k}": folds.ask(name, k)[0] for name in folds.names for k in folds.scored.folds}


def apart(made, rows):
    "What the net says of some samples, and what the ridge regression beside it says, where it has one."
    from aam_nb.model.ridge import RidgePart
    part = made.model.ridge
    if not isinstance(part, RidgePart): return dict(net=made.outputs(rows))
    share, found = part.share.clone(), {}
    for what, value in (("net", 0.), ("ridge", 1.)):
        part.share.fill_(value)
        found[what] = made.outputs(rows)
    part.share.copy_(share)
    return found


def stacked(parts):
    "Arrays of the same names, each with an axis for the models."
    return {k: np.stack([o[k] for o in parts]) for k in parts[0]} if parts else {}


def fold_parts(bench, train, test, inner, fold):
    "The fits of `fit_fold`, with net and ridge apart: `test`, `refit` [models, n, k], `oof` [n_train, k]."
    from aam_nb.runs.with_ridge import fit_both, fit_both_on_all
    from aam_nb.training.sample_stage import pretrained
    from aam_nb.training.target_stage import codecs
    start, learned, like = pretrained(bench, train, (fold,)), codecs(bench, train), []
    tests, oof, by = [], {}, np.full(len(bench.store), -1)
    for k, (fit, valid) in enumerate(inner):
        like.append(fit_both(bench, start, learned, fit, valid, (fold, k)))
        tests.append(apart(like[-1], test))
        for what, array in apart(like[-1], valid).items():
            oof.setdefault(what, np.full((len(by), array.shape[1]), np.nan, "f4"))[valid] = array
        by[valid] = k
    every = [fit_both_on_all(bench, start, learned, train, like, (fold, "all", k))
             for k in range(bench.config.run.refit)]
    named = dict(test=stacked(tests), refit=stacked([apart(o, test) for o in every]),
                 oof={k: v[train] for k, v in oof.items()})
    found = {f"{what} {part}": a for part, arrays in named.items() for what, a in arrays.items()}
    return found | dict(by=by[train], best=np.array([o.fit.best_step for o in like]))


def nets(ready):
    "The outputs of the nets: by what and fold."
    found, at = {}, ready.study.positions
    for k, (train, test) in enumerate(ready.parts.outer, 1):
        inner = [(at(a), at(b)) for a, b in ready.parts.inner[k - 1]]
        made = fold_parts(ready.bench, at(train), at(test), inner, k)
        found |= {f"{what} {k}": array for what, array in made.items()}
    return found


def run(variant, tasks, settings, seeds, out):
    "Fit the nets of some tasks, and the plain models where they are not there yet."
    out.mkdir(parents=True, exist_ok=True)
    for task, seed in ((t, s) for s in seeds for t in tasks):
        ready = prepared(task, seed, settings, out)
        kept(out/f"plain-{task}-{seed}.npz", lambda ready=ready: plain(ready))
        kept(out/f"net-{variant}-{task}-{seed}.npz", lambda ready=ready: nets(ready))


STEPS = ("before", "identity 256, mixup .8", "half ridge", "learned share", "one of all samples")


def mixed(saved, part, k, shares):
    "Outputs of the models of a fold, each with its share of the ridge regression."
    net, ridge = saved[f"net {part} {k}"], saved[f"ridge {part} {k}"]
    return net + np.reshape(shares, (-1, 1, 1))*(ridge - net)


def with_shares(saved, k, shares):
    "What `fit_fold` gives, where the inner models of a fold have these shares."
    by, every = saved[f"by {k}"], np.asarray(shares)
    net, ridge = saved[f"net oof {k}"], saved[f"ridge oof {k}"]
    return dict(test=mixed(saved, "test", k, every), oof=net + every[by][:, None]*(ridge - net))


def learned(saved, k, y, groups):
    "The shares that the inner models learn, as the package learns them."
    from aam_nb.runs.ridge_share import best_share, learned_share
    for i in range(saved[f"by {k}"].max() + 1):
        at = (saved[f"by {k}"] == i) & ~np.isnan(y)
        best = best_share(saved[f"net oof {k}"][at], saved[f"ridge oof {k}"][at], y[at])
        yield learned_share(best, len(set(groups[at])), .5)


def fold_steps(before, now, k, y, groups):
    "The outputs of a fold with one change after the other, by step."
    alone = lambda saved: dict(test=saved[f"net test {k}"], oof=saved[f"net oof {k}"])
    shares = list(learned(now, k, y, groups))
    both = with_shares(now, k, shares)
    found = {STEPS[1]: alone(now), STEPS[2]: with_shares(now, k, [.5]*len(shares)), STEPS[3]: both}
    if f"net refit {k}" in now: found[STEPS[4]] = both | dict(refit=mixed(now, "refit", k, np.mean(shares)))
    return ({STEPS[0]: alone(before)} if before else {}) | found


def stepwise(ready, before, now):
    "By step, the outputs of all folds."
    from aam_nb.data.targets import Targets
    at, metadata, found = ready.study.positions, ready.bench.metadata, {}
    groups = np.arange(len(ready.study.ids)) if ready.groups is None else ready.groups
    for k, (ids, _) in enumerate(ready.parts.outer, 1):
        train = at(ids)
        y = Targets.fit(metadata, ready.bench.config, train=train).encode(metadata)[train, 0]
        for step, fold in fold_steps(before, now, k, y, groups[train]).items():
            found.setdefault(step, []).append(fold)
    return found


def evaluated(ready, folds, known):
    "The scores of a net, from the outputs of each fold, beside the plain models."
    from aam_nb.evaluation.validate import evaluate, Plan
    from aam_nb.runs.evaluate import fold_predictions
    at, name = ready.study.positions, ready.bench.config.targets[0]
    def fit_model(train, test, k):
        "What was kept of a fold, read as the package reads it."
        return fold_predictions(ready.bench, ready.groups, at(train), at(test), folds[k - 1], name)
    plan = Plan(groups=ready.groups, folds=ready.parts.outer, seed=ready.bench.config.run.seed, threads=1)
    return evaluate(ready.study, ready.values, plan, fit_model, known=known)


def shown(score):
    "A score (value, low, high) with its interval, where it has one."
    value, low, high = score
    return f"{value:.3f}" + ("" if low is None or np.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def rows(task, seed, out):
    "Lines of the table: the plain models, then the net with one change after the other."
    path = lambda what: out/f"{what}-{task}-{seed}.npz"
    saved = kept(path("plain"), dict)
    known = {(k.split()[0], int(k.split()[1])): (v, 0.) for k, v in saved.items() if " " in k}
    ready = prepared(task, seed, (), out)
    before = kept(path("net-before"), dict) if path("net-before").exists() else {}
    for step, folds in stepwise(ready, before, kept(path("net-now"), dict)).items():
        e = evaluated(ready, folds, known)
        main = "r2" if e.task == "regression" else ("accuracy" if len(e.classes) > 2 else "auc")
        plain = [o for o in ("forest", "clr", "branch") if o in e.scores]
        start, own = f"| {task} {seed} | {main} |", e.scores["aam"][main]
        best = max(e.scores[o][main][0] for o in plain)
        yield from (f"{start} {o} | {shown(e.scores[o][main])} | | |" for o in plain) # Each line is kept once
        yield (f"{start} net, {step} | {shown(own)} | {shown(e.differences['aam'][main])} | "
               f"{own[0] - best:+.3f} |")


def table(out, seeds, tasks):
    "All that has been run, as Markdown."
    lines = ["| task, seed | score | method | value | minus forest | minus best of forest, clr, branch |",
             "|---|---|---|---|---|---|"]
    for task, seed in ((t, s) for t in tasks for s in seeds):
        names = (f"plain-{task}-{seed}.npz", f"net-now-{task}-{seed}.npz")
        if all((out/o).exists() for o in names): lines += rows(task, seed, out)
    return "\n".join(dict.fromkeys(lines))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("run", "table"))
    p.add_argument("words", nargs="*", help="variant, then tasks and section.key=value")
    p.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    p.add_argument("--out", type=Path, default=ROOT/"runs/net")
    args = p.parse_args()
    seeds = [int(o) for o in args.seeds.split(",")]
    if args.what == "table": return print(table(args.out, seeds, args.words or list(TASKS)))
    variant, *rest = args.words
    tasks = [o for o in rest if o in TASKS] or list(TASKS)
    run(variant, tasks, [o for o in rest if "=" in o], seeds, args.out)


if __name__ == "__main__": main()
