"""What net, stack and plain models lose on thinner reads, and how else their scores hold up, on real studies.

    python benchmarks/shifts.py run month delivery cfs run.start=reference
    python benchmarks/shifts.py table > benchmarks/results/shifts.md

Tasks are those of benchmarks/net.py. Each is one evaluation with run.checks = shifts, left_out, random_folds,
curve and 199 permutations, kept in the folder of --out and gone on with where it was stopped. Words with =
are settings. AAM_DATA names the folder of studies (default ../shared/data).
"""
import argparse
import csv
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from net import TASKS, files  # noqa: E402


def run(task, out, settings):
    "One evaluation, or the rest of it."
    from aam_nb.recipe import load_config
    from aam_nb.runs.evaluate import evaluate_run
    folder = out/task
    if (folder/"finished.json").exists(): return
    given = {f"data.{k}": [v] if k == "target" else v for k, v in files(task, out).items()}
    given |= {"run.out": str(folder), "run.checks": ["shifts", "left_out", "random_folds", "curve"],
              "run.permutations": 199, "run.threads": 1, "run.resume": folder.exists()}
    config = load_config("small", ("run.trackers=[]", *settings), given)
    begun = time.perf_counter()
    evaluate_run(config)
    with open(folder/"time.txt", "a") as f: f.write(f"{time.perf_counter() - begun:.0f}\n")


def rows(path): return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def number(text): return float(text) if text not in ("", "nan") else float("nan")


def shift_table(found):
    "Loss by method and kind of reads, with the loss beyond the forest's."
    kinds = list(dict.fromkeys(o["reads"] for o in found))
    yield f"| method | {found[0]['score']} as it is | " + " | ".join(f"lost at {o}" for o in kinds) + " |"
    yield "|---|---|" + "---|"*len(kinds)
    for title in dict.fromkeys(o["title"] for o in found):
        own = [o for o in found if o["title"] == title]
        yield f"| {title} | {number(own[0]['before']):.3f} | " + " | ".join(map(loss, own)) + " |"


def loss(o):
    "A loss, and how far it is beyond the forest's."
    beyond = number(o["beyond_forest"])
    more = "" if beyond != beyond else (f"; beyond the forest {beyond:+.3f} "
                                        f"[{number(o['beyond_low']):+.3f}, {number(o['beyond_high']):+.3f}]")
    return f"{number(o['loss']):+.3f}{more}"


def other_tests(folder):
    "Random folds, the curve and the permutations, in a line each."
    c = json.loads((folder/"checks.json").read_text())
    if c["random"]:
        r = c["random"]
        each = ", ".join(f"{k} {r['optimism'][k][0]:+.3f}" for k in r["scores"])
        yield f"Random folds: Kendall's tau with the grouped order {r['tau']:.2f}; optimism {each}."
    if c["curve"]:
        v = c["curve"]
        values = {k: " ".join(f"{o[0]:.3f}" for o in s) for k, s in v["scores"].items()}
        each = ", ".join(f"{k} {o}" for k, o in values.items())
        yield f"By training {v['unit']} ({', '.join(f'{o:.0f}' for o in v['groups'])}): {each}."
    p = c["permutations"]
    if p:
        good = sum(o <= p["value"] if p["lower"] else o >= p["value"] for o in p["null"])
        n = len(p["null"])
        yield (f"Labels dealt at random ({p['how']}): {p['method']} {p['value']:.3f}; {good} of {n} reach it"
               f", p = {(1 + good)/(1 + n):.3g}.")


def table(out):
    "All that has been run, as Markdown."
    print("# Thinner reads, and other tests of the scores\n")
    print("By `python benchmarks/shifts.py`: models and folds of `aam evaluate small run.start=reference`,")
    print("seed 42. A loss above 0 is worse (MAE up, AUC down); in brackets the 95 % interval over groups")
    print("of the loss minus the forest's.")
    for task in TASKS:
        if not (out/task/"finished.json").exists(): continue
        print(f"\n## {task} ({TASKS[task]['study']}, {TASKS[task]['target']})\n")
        for name in ("", *(o.name for o in sorted((out/task).glob("depth_*")))):
            if not (out/task/name/"shifts.tsv").exists(): continue
            if name: print(f"\nAt a common depth ({name}):\n")
            print("\n".join(shift_table(rows(out/task/name/"shifts.tsv"))))
            if not (out/task/name/"checks.json").exists(): continue
            print("\n" + "\n\n".join(other_tests(out/task/name)))
    minutes = {o.parent.name: sum(map(int, o.read_text().split()))/60 for o in out.glob("*/time.txt")}
    each = ", ".join(f"{k} {v:.0f} min" for k, v in minutes.items())
    print("\nTimes, on a machine that others used too:", each)


def main():
    "Read the command line."
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("words", nargs="*", help="tasks and settings")
    parser.add_argument("--out", type=Path, default=Path("/tmp/aam-shifts"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.do == "table": return table(given.out)
    tasks = [o for o in given.words if "=" not in o] or list(TASKS)
    for task in tasks: run(task, given.out, [o for o in given.words if "=" in o])


if __name__ == "__main__": main()
