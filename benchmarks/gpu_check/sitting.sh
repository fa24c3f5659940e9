#!/usr/bin/env bash
# Measures on one GPU, within nine minutes, what docs/benchmarks.md lists as not measured:   benchmarks/gpu_check/sitting.sh
#
# The most wanted figures come first, so that a run that is cut off has them. `--tiny` rehearses on a CPU, with the
# embedded voice. OUT is the folder of the results (default: gpu_check_out), with one folder per part; PYTHON is the
# interpreter (default: python3). docs/benchmarks.md says how to bring the packages to a machine without network.
# Behind each part: the seconds that it should take on an H100.
set -uo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
out=${OUT:-gpu_check_out}
failed=0
if [[ ${1:-} == --tiny ]]; then
  flags=(--device cpu --tiny) llm=(--device cpu --dtypes float32 --batches 2 --steps 8)
else
  flags=() llm=(--device cuda:0 --dtypes bfloat16 --batches 64 256 --steps 48 --full-size)
fi

write() {  # family: its checkpoint, which the check finds where it would write it itself
  "$python" -c "
import sys
from benchmarks.gpu_check.checkpoint import write
from benchmarks.gpu_check.processes import CHECKPOINTS
directory = CHECKPOINTS[sys.argv[1]]
directory.exists() or write(sys.argv[1], directory)" "$1"
}

check() {  # folder, most seconds, arguments of the check
  OUT=$out/$1 "$python" -m benchmarks.gpu_check "${flags[@]}" --limit "$2" "${@:3}" || failed=1
}

mkdir -p "$out"
if ((${#flags[@]} == 0)); then
  write cosyvoice2 & first=$!
fi
"$python" -m benchmarks.llm "${llm[@]}" --no-transformers --num-steps 8 | tee "$out/llm.txt" || failed=1 # 30
if ((${#flags[@]} == 0)); then
  wait "$first"
  write cosyvoice3 & second=$!
fi
check kernels 125 decode_kernel decode_speed # 100
check services 215 stack mps kill # 170
check engines 85 together states # 75
if ((${#flags[@]} == 0)); then
  wait "$second"
fi
check cosyvoice3 85 decode_speed --family cosyvoice3 # 70
exit "$failed"
