#!/usr/bin/env bash
# What has to be seen on a CUDA machine, in under nine minutes and without a network.
#
#   bash siflow_sk/benchmarks/gpu.sh                                    # report: docs/benchmarks/gpu.md
#   DEVICE=cpu REPORT=gpu-try.md bash siflow_sk/benchmarks/gpu.sh       # try the script itself without a GPU
#
# From the root of the repository, with torch for CUDA, the extra "test" and, for the comparison with zuko and
# flow_matching, the extra "bench" installed. PYTHON, DATA (folder of the tables) and QUICK=1 may be set too.
set -u -o pipefail

DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python}
DATA=${DATA:-${SIFLOW_DATA:-../shared/data}}
REPORT=${REPORT:-docs/benchmarks/gpu.md}
QUICK=${QUICK:+--quick}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
START=$SECONDS
STATUS=0
export PYTHONUNBUFFERED=1

if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: torch finds no CUDA device; DEVICE=cpu tries the script without one." >&2
    exit 2
fi

table=$'| Step | Outcome | Seconds | Figure |\n|---|---|--:|---|'

# step NAME SECONDS PATTERN COMMAND...: run for at most so long; the last line with PATTERN is the figure
step() {
    local name=$1 limit=$2 pattern=$3 begin=$SECONDS code outcome
    shift 3
    echo "== $name: $*"
    # an interrupt, not a kill: the benchmarks write what they have
    timeout -s INT -k 10 "$limit" "$@" 2>&1 | tee "$WORK/$name.log"
    code=$?
    case $code in
        0) outcome=passed ;;
        124 | 130 | 137) outcome="stopped after $limit s" ;;
        *) outcome="failed ($code)" ;;
    esac
    [ $code -eq 0 ] || STATUS=1
    table+=$'\n'"| $name | $outcome | $((SECONDS - begin)) | $(grep -E "$pattern" "$WORK/$name.log" | tail -n 1 |
        tr -d '|=' | sed "s#$PWD/##g") |"
}

SECTIONS=search,score,sample,fit
if "$PYTHON" -c 'import zuko, flow_matching' 2>/dev/null; then SECTIONS=same,$SECTIONS; fi

uci() { # uci NAME SECONDS ARGUMENTS...
    local name=$1 limit=$2
    shift 2
    # shellcheck disable=SC2086
    step "$name" "$limit" '^\[.*NLL|rror' "$PYTHON" -m siflow_sk.benchmarks uci --models ours --device "$DEVICE" \
        --data "$DATA" --output "$WORK/$name.jsonl" --report "$WORK/$name.rst" $QUICK "$@"
}

# first what matters most: a million rows; 195 s on an H100, of which the fit takes 172
uci bsds300 260 --sets bsds300 --max-iter 20000 --polish 10000 --test-rows 50000 \
    --parameters velocity__width=1024,preprocessor=whiten,ema_decay=0.998,n_iter_no_change=15
WORKERS=
if "$PYTHON" -c 'import xdist' 2>/dev/null; then WORKERS="-n $(($(nproc) < 14 ? $(nproc) : 14))"; fi
# without pytest-benchmark, which warns beside xdist, and warnings are errors
# shellcheck disable=SC2086
SIFLOW_DEVICE=$DEVICE step tests 150 'passed|failed|error' \
    "$PYTHON" -m pytest tests/test_cuda.py -m gpu -p no:cacheprovider -p no:benchmark $WORKERS
uci power 40 --sets power
uci miniboone 20 --sets miniboone
# shellcheck disable=SC2086
step speed 90 '^\[' "$PYTHON" -m siflow_sk.benchmarks speed --device "$DEVICE" --sections "$SECTIONS" \
    --output "$WORK/speed.jsonl" --report "$WORK/speed.rst" $QUICK

machine=$("$PYTHON" - <<'PY'
import platform

import torch

import siflow_sk

name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}, siflow_sk {siflow_sk.__version__}, "
      f"Python {platform.python_version()}")
PY
)

{
    echo "# On $DEVICE"
    echo
    echo "Written by \`siflow_sk/benchmarks/gpu.sh\` on $(date -u +%F) in $((SECONDS - START)) s; changes made here are lost."
    echo
    echo "$machine"
    echo
    echo "$table"
    for name in power miniboone bsds300 speed; do
        [ -f "$WORK/$name.log" ] || continue
        printf '\n## %s\n\n```\n' "$name"
        grep -E '^(\[|[A-Z ]+: )' "$WORK/$name.log"
        printf '```\n'
    done
} >"$WORK/report.md"
mkdir -p "$(dirname "$REPORT")"
cp "$WORK/report.md" "$REPORT"
echo
echo "$table"
echo "report: $REPORT"
exit $STATUS
