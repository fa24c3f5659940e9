#!/usr/bin/env bash
# Train a voice on a GPU machine within a time: training/on_gpu.sh SECONDS [HOURS of speech, 6 by default]
#
# The folder WORK (.run/voice) must have sentences.json and phones.json; the stages text and phones make them anywhere.
# Afterwards WORK/packed has the checkpoints. Copy them into the folder of a CPU's run, which adds speech, export and report.
# START: a model directory whose weights training begins with. DEVICE, BATCH, WORKERS, TOKENIZER and LM (minutes): for tests.
set -uo pipefail

SECONDS_IN_ALL=${1:?"usage: training/on_gpu.sh SECONDS [HOURS]"} HOURS=${2:-6}
WORK=${WORK:-.run/voice} START=${START:-models/tiny} DEVICE=${DEVICE:-cuda} BATCH=${BATCH:-4}
WORKERS=${WORKERS:-$(($(nproc --all) - 1))} TOKENIZER=${TOKENIZER:-1} LM=${LM:-3}
END=$(($(date +%s) + SECONDS_IN_ALL))
# These libraries start a thread per core in each of the processes otherwise.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONUNBUFFERED=1
LOGS=$WORK/logs
mkdir -p "$LOGS"

# The minutes until SECONDS before the end.
left() { awk -v left=$((END - $(date +%s) - $1)) 'BEGIN { print (left > 6 ? left / 60 : 0.1) }'; }
# train STAGES MINUTES PROCESSES
train() {
  python3 -m training --device "$DEVICE" --work "$WORK" --start "$START" --rounds "$HOURS:20" --batch "$BATCH" \
    --stages "$1" --minutes "$2" --workers "$3" >"$LOGS/$1" 2>&1
  echo "$(date +%T) $1: $(tail -n 1 "$LOGS/$1")"
}

# With NVIDIA's Multi-Process Service (MPS) the kernels of several processes run at the same time; without it the GPU runs one
# process at a time. The script uses it where it works. Speech and training have a daemon each, because the end of the time
# kills the processes that speak, and a killed client can leave its daemon unusable.
mps() {
  export CUDA_MPS_PIPE_DIRECTORY=$1/pipe CUDA_MPS_LOG_DIRECTORY=$1/log
  mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
  if [ "$DEVICE" = cuda ] && timeout 8 nvidia-cuda-mps-control -d >"$LOGS/mps" 2>&1 </dev/null &&
    timeout 25 python3 -c 'import torch; torch.ones(1, device="cuda").item()' >"$LOGS/mps" 2>&1; then
    echo "$(date +%T) the processes share the GPU by MPS"
  else
    no_mps
  fi
}
no_mps() {
  [ "$DEVICE" = cuda ] && echo "quit -t 2" | timeout 6 nvidia-cuda-mps-control >/dev/null 2>&1
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}
MPS=$(mktemp -d)
trap 'no_mps; rm -rf "$MPS"' EXIT

# The teacher gets two fifths of the time at most. Shards are complete whenever it is stopped; timeout stops its processes, too.
mps "$MPS/speech"
timeout --kill-after 3 $((SECONDS_IN_ALL * 2 / 5)) python3 -m training --device "$DEVICE" --work "$WORK" \
  --rounds "$HOURS:1" --stages speech --workers "$WORKERS" >"$LOGS/speech" 2>&1
no_mps
rm -rf "$WORK"/speech/*.part
echo "$(date +%T) $(tail -n 1 "$LOGS/speech")"

mps "$MPS/training"
train speaker 0.5 4 &
SPEAKER=$!
train tokenizer "$TOKENIZER" 8
wait $SPEAKER
train codes 1 1
train vocoder "$(left 20)" 3 &
train lm "$LM" 3 &
train flow "$(left 130)" 6
train distil "$(left 20)" 8
wait
train pack 1 1
