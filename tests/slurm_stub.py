"""Stand-ins for SLURM and for what a job starts: they check what they are given and note what would run.

`commands(folder)` puts sbatch, srun, scontrol, scancel, torchrun and aam into a folder for PATH."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

# Options by sbatch(1) and srun(1) of SLURM 22.05, with the form of their values; every other one is refused.
SBATCH = {"job-name": r"[\w.-]+", "partition": r"[\w,.-]+", "nodes": r"\d+(-\d+)?", "ntasks-per-node": r"\d+",
          "gpus-per-node": r"([\w.-]+:)?\d+", "cpus-per-task": r"\d+", "mem": r"\d+[KMGT]?",
          "account": r"[\w.-]+", "time": r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d(:\d\d)?)?",
          "output": r"[\w%./-]+", "requeue": None, "open-mode": "append|truncate",
          "signal": r"([RB]+:)?[A-Z0-9]+(@\d{1,5})?"}
SRUN = {"kill-on-bad-exit": "[01]", "cpus-per-task": r"\d+"}


def checked(words, known):
    "Options by name. Raises `ValueError` for one that is not known, is not of its form, or stands twice."
    found = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in known: raise ValueError(f"no option {word}")
        if known[name] is None and "=" in word: raise ValueError(f"{word} takes no value")
        wrong = known[name] and not re.fullmatch(known[name], value)
        if wrong: raise ValueError(f"{word} is not of its form")
        if name in found: raise ValueError(f"{word} stands twice")
        found[name] = value
    return found


def asked(text):
    "What a batch script asks of SLURM, which reads its lines up to the first command only."
    lines = text.splitlines()
    if not lines[0].startswith("#!"): raise ValueError("a batch script begins with #!")
    first = next(i for i, o in enumerate(lines) if o.strip() and not o.startswith("#"))
    late = [o for o in lines[first:] if o.startswith("#SBATCH")]
    if late: raise ValueError(f"{late[0]} stands behind the first command")
    return checked([o.split(maxsplit=1)[1] for o in lines[:first] if o.startswith("#SBATCH")], SBATCH)


def note(**what):
    "Append to what would run."
    with open(os.environ["STUB_OUT"] + "/commands.jsonl", "a") as f: f.write(json.dumps(what) + "\n")


def noted(folder):
    "All that would run, in order."
    path = Path(folder)/"commands.jsonl"
    return [json.loads(o) for o in path.read_text().splitlines()] if path.is_file() else []


def sbatch(words):
    "Run a batch script as SLURM would on the first node; STUB_USR1 asks for the signal before the end."
    script = Path(words[0])
    subprocess.run(["bash", "-n", script], check=True)
    options = asked(script.read_text())
    gpus, nodes = options["gpus-per-node"].split(":")[-1], options["nodes"]
    made = dict(SLURM_JOB_ID="123457", SLURM_NNODES=nodes, SLURM_GPUS_ON_NODE=gpus,
                SLURM_JOB_NODELIST=f"node[1-{nodes}]", SLURM_CPUS_PER_TASK=options["cpus-per-task"])
    job = subprocess.Popen(["bash", script], env=os.environ | made)
    if "STUB_USR1" in os.environ: warn(job)
    return job.wait(60)


def warn(job, seconds=30):
    "Send USR1 to a batch script whose step runs."
    end = time.monotonic() + seconds
    while not running() and time.monotonic() < end: time.sleep(.02)
    job.send_signal(signal.SIGUSR1)


def running():
    "The process of the step that runs, if one does."
    path = Path(os.environ["STUB_OUT"])/"step"
    return int(path.read_text() or 0) if path.is_file() else 0


def srun(words):
    "Start the command once on each node."
    end = next(i for i, o in enumerate(words) if not o.startswith("--"))
    note(command="srun", options=checked(words[:end], SRUN))
    tasks = []
    for i in range(int(os.environ["SLURM_NNODES"])):
        env = os.environ | dict(SLURM_NODEID=str(i), SLURM_PROCID=str(i))
        tasks.append(subprocess.Popen(words[end:], env=env))
    return max(o.wait(60) for o in tasks)


def program(name, words):
    "torchrun or aam: note how it was started; STUB_USR1 makes it run until it is asked to leave."
    told = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    env = {k: v for k, v in os.environ.items() if k in told}
    note(command=name, words=words, env=env)
    if "STUB_USR1" not in os.environ: return int(os.environ.get("STUB_CODE", "0"))
    left = []
    signal.signal(signal.SIGTERM, lambda *_: left.append(1))
    (Path(os.environ["STUB_OUT"])/"step").write_text(str(os.getpid()))
    end = time.monotonic() + 30
    while not left and time.monotonic() < end: time.sleep(.02)
    note(command="left", asked=bool(left))
    return 1


def scontrol(words):
    "Names of nodes, or a job queued again."
    if words[:2] == ["show", "hostnames"]:
        head, last = re.fullmatch(r"(\w+)\[1-(\d+)\]", words[2]).groups()
        print("\n".join(f"{head}{i}" for i in range(1, int(last)+1)))
    elif words[0] == "requeue" and words[1:] == [os.environ["SLURM_JOB_ID"]]: note(command="requeue")
    else: raise ValueError(f"scontrol {words}")
    return 0


def scancel(words):
    "Signal the steps of a job, not its script."
    if words != ["--signal=TERM", os.environ["SLURM_JOB_ID"]]: raise ValueError(f"scancel {words}")
    os.kill(running(), signal.SIGTERM)
    return 0


OWN = dict(sbatch=sbatch, srun=srun, scontrol=scontrol, scancel=scancel)


def commands(folder):
    "Put the commands into a folder."
    folder.mkdir(parents=True)
    for name in (*OWN, "torchrun", "aam"):
        (folder/name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        (folder/name).chmod(0o755)
    return folder


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    sys.exit(OWN[name](words) if name in OWN else program(name, words))
