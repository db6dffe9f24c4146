#!/usr/bin/env bash
# Several nodes with several GPUs each, a process for each GPU:  sbatch slurm/many_nodes.sh
# Change what stands above the line "From here on". nbs/howto/cluster.ipynb explains each choice.
#SBATCH --job-name=aam
#SBATCH --partition=gpu
#SBATCH --nodes=2
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
network=""                        # Network card between nodes, as `ip -br addr` names it; empty: chosen
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
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((10000 + SLURM_JOB_ID % 20000))
# Each node puts in its own number; in the log [node1-0] is the first process of the second node.
# shellcheck disable=SC2016
launch=(bash -c 'exec torchrun --node-rank "$SLURM_NODEID" --role "node$SLURM_NODEID-" \
        --log-dir "$0/node$SLURM_NODEID" "$@"' "$run-logs"
    --nnodes "$SLURM_NNODES" --nproc-per-node "$gpus"
    --master-addr "${nodes[0]}" --master-port "$port" --tee 3 --no-python aam)
if [ -n "$network" ]; then
    export GLOO_SOCKET_IFNAME="$network" NCCL_SOCKET_IFNAME="$network"
fi
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
