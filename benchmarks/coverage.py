"""How often intervals over few groups hold the truth, by the method in use and by three others.

    python benchmarks/coverage.py                    # all of it; about an hour on one core
    python benchmarks/coverage.py --others 0         # the method in use alone

Predictions are a fixed rule: nothing is fitted, so the truth is the score of a very large number of groups. A
group has a size of its own (from one sample to some thirty), an effect on the true value and an effect on the
errors of both methods. Errors are normal or have heavy tails (Student's t with 4 degrees of freedom), and the
target varies within a group or is a trait of it. Groups are dealt to five folds by class, as evaluations do.
The truth of the AUC is that of such folds, since it counts pairs within them.
"""
import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import norm

import aam_nb.evaluation.jackknife as page
from aam_nb.evaluation.jackknife import apart, jackknife, share
from aam_nb.evaluation.scores import score_functions, with_ends
from aam_nb.training.metrics import bootstrap

NUMBERS = (8, 15, 30, 60)
FEW = (3, 4, 5, 6)


@dataclass(frozen=True)
class Design:
    "What kind of study is drawn."
    groups: int
    heavy: bool = False # Whether errors have heavy tails
    trait: bool = False # Whether the target is a trait of the group

    @property
    def name(self):
        return ("heavy tails" if self.heavy else "normal") + (", trait of the group" if self.trait else "")


@dataclass(frozen=True)
class Drawn:
    "Rows of one study: a number and a class, each predicted by two methods."
    group: np.ndarray
    fold: np.ndarray
    y: np.ndarray
    numbers: tuple
    state: np.ndarray
    shares: tuple


def errors(rng, design, group, effect=.3):
    "Errors of variance 1, of which a part is shared by the samples of a group."
    def some(n): return rng.standard_t(4, n)/np.sqrt(2) if design.heavy else rng.normal(size=n)
    return np.sqrt(effect)*some(design.groups)[group] + np.sqrt(1 - effect)*some(len(group))


def draw(rng, design):
    "A study of groups of unequal sizes."
    n = 1 + rng.negative_binomial(1.2, .2, design.groups)
    group = np.repeat(np.arange(design.groups), n)
    within = 0 if design.trait else .5
    def level(): return (rng.normal(size=design.groups)[group]*np.sqrt(1 - within)
                         + rng.normal(size=len(group))*np.sqrt(within))
    y, lean, both = 10 + 3*level(), 1.5*level(), errors(rng, design, group)
    numbers = (y + 1.2*(both + .5*errors(rng, design, group)),
               10 + .8*(y - 10) + 1.5*(both + .8*errors(rng, design, group)))
    state = (lean > 0).astype(int)
    shares = tuple(expit(lean + off*errors(rng, design, group)) for off in (1.5, 2.2))
    return Drawn(group, folds_of(rng, group, state), y, numbers, state,
                 tuple(np.stack([1 - p, p], 1) for p in shares))


def folds_of(rng, group, state):
    "The fold of each sample: groups are dealt to five folds by their share of the class."
    n = group.max() + 1
    part = np.bincount(group, state)/np.bincount(group)
    fold = np.empty(n, dtype=int)
    fold[np.lexsort((rng.random(n), part))] = np.arange(n) % 5
    return fold[group]


def balanced(state, right):
    "The balanced accuracy, as a function of rows."
    def of(rows):
        each = [right[rows][state[rows] == k] for k in (0, 1)]
        return float(np.mean([o.mean() for o in each])) if all(map(len, each)) else float("nan")
    return of


def scores(s):
    "Score name, function of rows, and whether it is a difference; by what a table calls it."
    out = {}
    for task, y, predictions in (("regression", s.y, s.numbers), ("classification", s.state, s.shares)):
        first, second = (score_functions(task, y, p, s.fold) for p in predictions)
        if task == "classification":
            for made, p in ((first, s.shares[0]), (second, s.shares[1])):
                made["balanced accuracy"] = balanced(s.state, p.argmax(1) == s.state)
        for m in first:
            out[m] = m, first[m], False
            out[f"{m}, difference"] = m, lambda rows, f=first[m], g=second[m]: f(rows) - g(rows), True
    return out


def in_use(found, group):
    "The interval of the package."
    name, score, gap = found
    if name != "balanced accuracy": return with_ends(name, score, group, difference=gap)[1:]
    return jackknife(score, group, apart if gap else share)


def plain_jackknife(found, group): return jackknife(found[1], group)


def percentile(found, group, n=400): return bootstrap(found[1], group, n=n)


def accelerated(found, group, n=400):
    "Efron's BCa interval over groups (1987)."
    score, rows = found[1], np.split(np.arange(len(group)), np.flatnonzero(np.diff(group)) + 1)
    rng, all_rows = np.random.default_rng(0), np.arange(len(group))
    def once(): return np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
    drawn = [score(once()) for _ in range(n)]
    drawn, value = np.array([o for o in drawn if np.isfinite(o)]), score(all_rows)
    left = np.array([score(np.setdiff1d(all_rows, o)) for o in rows])
    off = left.mean() - left
    spread = (off**2).sum()**1.5
    if not np.isfinite(spread) or not spread or not len(drawn): return float("nan"), float("nan")
    bias = norm.ppf(np.clip((drawn < value).mean() + (drawn == value).mean()/2, .001, .999))
    bend = (off**3).sum()/(6*spread)
    at = [norm.cdf(bias + (bias + z)/(1 - bend*(bias + z))) for z in norm.ppf([.025, .975])]
    return tuple(np.quantile(drawn, at))


METHODS = {"percentile bootstrap": percentile, "BCa bootstrap": accelerated,
           "jackknife, plain t": plain_jackknife}


def truth(design, draws=2000):
    "The scores of a very large number of groups, in folds of the same kind as those of the design."
    rng = np.random.default_rng(1)
    many = [draw(rng, design) for _ in range(draws)]
    def join(of): return np.concatenate([of(s) for s in many])
    fold = np.concatenate([s.fold + 5*i for i, s in enumerate(many)])
    numbers, shares = (tuple(join(lambda s, k=k, o=o: getattr(s, o)[k]) for k in (0, 1))
                       for o in ("numbers", "shares"))
    group, y, state = (join(lambda s, o=o: getattr(s, o)) for o in ("group", "y", "state"))
    all_of = Drawn(group, fold, y, numbers, state, shares)
    rows = np.arange(len(fold))
    return {k: score(rows) for k, (_, score, _) in scores(all_of).items()}


def coverage(design, method=in_use, simulations=500, seed=0):
    "By score: the share of intervals that hold the truth, the share that are given, and their median width."
    true, rng = truth(design), np.random.default_rng(seed)
    ends = {k: [] for k in true}
    for _ in range(simulations):
        s = draw(rng, design)
        for k, found in scores(s).items(): ends[k].append(method(found, s.group))
    return {k: held(np.array(o), true[k]) for k, o in ends.items()}


def held(ends, true):
    "How many intervals hold the truth, of those that are given."
    given = np.isfinite(ends).all(1)
    if not given.any(): return float("nan"), 0., float("nan")
    low, high = ends[given].T
    return float(((low <= true) & (true <= high)).mean()), float(given.mean()), float(np.median(high - low))


DESIGNS = [dict(heavy=heavy, trait=trait) for trait in (False, True) for heavy in (False, True)]


def cell(value, given, width):
    "A coverage in percent, and the share of studies that had an interval where not all had one."
    if not given: return "none"
    return f"{100*value:.1f}" + (f" ({given:.0%})" if given < 1 else "")


def table(method, numbers, simulations):
    "A table of coverage: a row for each design and number of groups."
    head, lines = None, []
    for how in DESIGNS:
        for n in numbers:
            found = coverage(Design(n, **how), method, simulations)
            head = head or list(found)
            cells = [cell(*o) for o in found.values()]
            lines.append(f"| {Design(n, **how).name} | {n} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return "\n".join([f"| errors | groups | {' | '.join(head)} |", "|---"*(len(head) + 2) + "|", *lines])


def below_the_limit(simulations):
    "The table for numbers of groups for which the package gives no interval, or only just."
    limit, page.FEWEST = page.FEWEST, 2
    try: return table(in_use, FEW, simulations)
    finally: page.FEWEST = limit


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--simulations", type=int, default=2000, help="of the method in use")
    ask.add_argument("--others", type=int, default=200, help="of each other method; 0 for none")
    ask.add_argument("--out", type=Path, default=None, help="write the tables here as Markdown")
    asked = ask.parse_args()
    parts = [("The method in use", table(in_use, NUMBERS, asked.simulations)),
             ("The method in use, over fewer groups", below_the_limit(asked.others or 200))]
    for name, method in METHODS.items():
        if asked.others: parts.append((capital_of(name), table(method, NUMBERS, asked.others)))
    if asked.out: asked.out.write_text("\n\n".join(f"## {name}\n\n{text}" for name, text in parts) + "\n")


def capital_of(name): return name[:1].upper() + name[1:]


if __name__ == "__main__": main()
