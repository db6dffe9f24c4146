"""The main job on real studies: one command each, scores beside the baselines on the same folds, kept in
benchmarks/results.

    python benchmarks/studies.py ecam_small        infants of ecam_infant, months of life, by subject
    python benchmarks/studies.py ecam_delivery     the same infants, how they were born
    python benchmarks/studies.py ecam_both         both columns at once, by one model
    python benchmarks/studies.py hmp_small         hmp_v35_bodysite, 18 sites of the body, by subject
    python benchmarks/studies.py ibd_small         ibd_crohns_2538 from its .qza files, Crohn's or control
    python benchmarks/studies.py tiny_demo         tiny_ecam60: evaluate, train, predict with the recipe demo
    python benchmarks/studies.py ecam_aam          one split with the recipe aam, few steps (hours on a CPU)

All but the last two use the recipe small and divide by subject. AAM_DATA names the folder of studies (default
../shared/data). Times are of the machine at hand; scores are what to compare.
"""
import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")


QUESTIONS = dict(ecam_infant="ecam_age", tiny_ecam60="tiny_age", hmp_v35_bodysite="hmp_sites",
                 ibd_crohns_2538="ibd_4000") # Names in tasks.toml, by study


def flags(name):
    "What the command line of a study says: its task, for ibd_crohns_2538 from files as users bring them."
    from aam_nb.runs.tasks import read_tasks
    task = {o.name: o.data for o in read_tasks(ROOT/"benchmarks/tasks.toml", DATA)}[QUESTIONS[name]]
    found = task | {"target": task["target"][0]}
    if name != "ibd_crohns_2538": return found
    q = DATA/"qiime2_files"
    found |= dict(table=q/"ibd-table.qza", metadata=q/"ibd-metadata.tsv", tree=q/"ibd-tree.qza")
    return {k: v for k, v in found.items() if k != "depth"}


# Where a job predicts others than its study's own
COLUMNS = dict(ecam_delivery="delivery", ecam_both="month_of_life, delivery")
JOBS = dict(ecam_small=("ecam_infant", "small", "evaluate"),
            ecam_delivery=("ecam_infant", "small", "evaluate"),
            ecam_both=("ecam_infant", "small", "evaluate"),
            hmp_small=("hmp_v35_bodysite", "small", "evaluate"),
            ibd_small=("ibd_crohns_2538", "small", "evaluate"),
            tiny_demo=("tiny_ecam60", "demo", "chain"), ecam_aam=("ecam_infant", "aam", "train"))


def run(job, out, overrides):
    "Run a job; returns the lines it said."
    from aam_nb.recipe import load_config
    from aam_nb.runs.evaluate import evaluate_run
    from aam_nb.runs.predict import predict_run
    from aam_nb.runs.train import train_run
    study, recipe, how = JOBS[job]
    heard = []
    files = flags(study) | ({"target": COLUMNS[job]} if job in COLUMNS else {})
    def say(text):
        print(text, flush=True)
        heard.append(str(text))
    def config(name):
        return load_config(recipe,
                           (*(f"data.{k}='''{v}'''" for k, v in files.items()), f"run.out='''{out/name}'''",
                            *overrides))
    if how in ("evaluate", "chain"): evaluate_run(config("evaluate"), say=say)
    if how in ("train", "chain"): bundle = train_run(config("train"), say=say)
    if how == "chain": predict_run(bundle, flags(study)["table"], out/"predictions.tsv", say=say)
    return heard


def written(job, heard, seconds, overrides, out):
    "The result as a page, without paths of the machine."
    from aam_nb.runs.folder import versions
    lines = [o.replace(str(DATA), "data").replace(f"{out}/", "") for text in heard
             for o in text.splitlines() if " stands in " not in o]
    command = " ".join(["python benchmarks/studies.py", job, *overrides])
    machine = (f"{date.today()}, {seconds/60:.1f} min on {os.cpu_count()} cores ({platform.machine()}), "
               f"{json.dumps(versions())}")
    return "\n".join([f"# {job}", "", f"`{command}`", "", machine, "", "```", *lines, "```", ""])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("job", choices=JOBS)
    p.add_argument("overrides", nargs="*", help="section.key=value")
    p.add_argument("--out", type=Path, help="run folder (default: runs/JOB)")
    args = p.parse_args()
    begun = time.perf_counter()
    out = args.out or ROOT/"runs"/args.job
    heard = run(args.job, out, args.overrides)
    results = ROOT/"benchmarks/results"
    results.mkdir(exist_ok=True)
    (results/f"{args.job}.md").write_text(written(args.job, heard, time.perf_counter() - begun,
                                                  args.overrides, out))


if __name__ == "__main__": main()
