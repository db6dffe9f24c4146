#!/usr/bin/env bash
# One node with several GPUs, a process for each:  sbatch slurm/one_node.sh
# Change what stands above the line "From here on". nbs/howto/cluster.ipynb explains each choice.
#SBATCH --job-name=aam
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
# A job that is queued again writes on in the same log, goes on with --resume, and has the same number.
#SBATCH --requeue
#SBATCH --open-mode=append
# Five minutes before the time is up this script gets USR1.
#SBATCH --signal=B:USR1@300
set -euo pipefail

environment="$HOME/aam_nb/.venv"  # Where aam is installed; every node must see it
study="$HOME/study"               # Files that go in; the same path each time the job is queued
run="$HOME/runs/age"              # Run folder; every node must see it
work=(train aam                   # Or evaluate
    --table "$study/table.qza"
    --metadata "$study/metadata.tsv"
    --tree "$study/rooted-tree.qza"
    --target age_months
    --groups host_subject_id
    --out "$run")

# From here on nothing depends on the study.
export PATH="$environment/bin:$PATH"
gpus="$SLURM_GPUS_ON_NODE"
threads=$((SLURM_CPUS_PER_TASK / gpus))
export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}"  # Without warnings of the connections
# In the log [node0-1] is the second process of this node.
launch=(torchrun --standalone --nproc-per-node "$gpus" --role "node0-"
    --log-dir "$run-logs/node0" --tee 3 --no-python aam)
export OMP_NUM_THREADS="$threads"
work+=(--threads "$threads")
if [ -f "$run/config.toml" ]; then work+=(--resume); fi

# Five minutes before the time is up: the run writes a checkpoint and leaves; then the job is queued again.
leaving=""
trap 'leaving=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

code=0
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" "${launch[@]}" "${work[@]}" &
wait "$!" || code=$?
if [ -n "$leaving" ]; then
    # USR1 ended the first wait, not the run.
    code=0
    wait "$!" || code=$?
    # A run that had not even begun would not get further the next time.
    if [ -f "$run/config.toml" ] && [ ! -f "$run/finished.json" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
fi
exit "$code"
