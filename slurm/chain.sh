#!/usr/bin/env bash
# One job per stage, each with resources of its own; a job starts when the one before has succeeded.
#
#   slurm/chain.sh lrs,xp align heads -- +experiment=specclip scale=paper dataset=store dataset.path=pairs.h5
#
# Stages joined by a comma share a job. Prints a line `STAGES JOB` for each job. A stage that fails, or is interrupted
# without being requeued, ends with a code other than 0, and SLURM then removes the jobs that wait for it.
#
# CHAIN_<stage> holds sbatch options for a job (commas become underscores), CHAIN_SCRIPT_<stage> another script:
#   CHAIN_lrs_xp="--time=2-00:00:00" CHAIN_SCRIPT_align=slurm/train_node.sbatch CHAIN_heads="--gpus-per-node=0" \
#     slurm/chain.sh lrs,xp align heads -- +experiment=specclip
# CHAIN_OPTIONS are for all jobs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
stages=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  stages+=("$1")
  shift
done
if [ $# -lt 2 ] || [ ${#stages[@]} -eq 0 ]; then
  echo "chain.sh: give stages, --, and the options of astro-train: chain.sh lrs,xp align -- +experiment=specclip" >&2
  exit 2
fi
shift

# all jobs are one launch: run.fresh=true starts one generation, not one in each
export ASTRO_TRAIN_LAUNCH=${ASTRO_TRAIN_LAUNCH:-chain-$(date +%s)-$$}
before=""
for names in "${stages[@]}"; do
  key=${names//,/_}
  options="CHAIN_$key" script="CHAIN_SCRIPT_$key"
  after=()
  [ -z "$before" ] || after=("--dependency=afterok:$before" --kill-on-invalid-dep=yes)
  # shellcheck disable=SC2086 # options are words
  before=$(sbatch --parsable --job-name="astro-$names" ${after[@]+"${after[@]}"} ${CHAIN_OPTIONS:-} ${!options:-} \
    "${!script:-$here/train.sbatch}" "$@" "run.stages=[$names]")
  before=${before%%;*} # JOB;CLUSTER where there are several clusters
  echo "$names $before"
done
