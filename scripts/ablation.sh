#!/usr/bin/env bash
# What U2PL is made of, and what it is compared with: every variant with every seed, and a table of
# their validation mIoU (Markdown, on standard output).
#
#   scripts/ablation.sh [--bin FILE] [--config FILE] [--seeds "0 1 2"] [--out DIR] [TRAIN OPTION]...
#
# By default the demo's recipe, which needs no data, into runs/ablation. Other options go to `train`
# (--set data.root=DIR, --device cuda …). Runs that are there already are not made again. On a CPU
# as many runs at once as there are cores, one thread each (JOBS overrides): the same bits, sooner.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
bin=$here/target/release/u2pl-engine config=$here/configs/demo.yaml seeds="0 1 2" out=runs/ablation
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --bin | --config | --seeds | --out)
      [ $# -gt 1 ] || { echo "error: $1 wants a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) options+=("$1"); shift ;;
  esac
done
[ -x "$bin" ] || { echo "error: no binary at $bin: cargo build --release, or give --bin" >&2; exit 2; }

jobs=${JOBS:-$(nproc)}
case " ${options[*]-} " in
  *" --device "*) jobs=${JOBS:-1} ;;
  *) options+=(--threads $(($(nproc) / jobs > 1 ? $(nproc) / jobs : 1))) ;;
esac

names=(
  "supervised only"
  "mean teacher"
  "fixed threshold"
  "U2PL without contrast"
  "U2PL"
  "U2PL, mode released"
)
sets=(
  train.algorithm=supervised
  train.algorithm=mean-teacher
  train.algorithm=fixed-threshold
  method.contrast_weight=0
  train.algorithm=u2pl
  method.mode=released
)

one() {
  local folder=$1
  shift
  # Complete once the closing line is in its log.
  grep -qs 'iterations in .*mIoU' "$folder.log" && return
  rm -rf "$folder"
  "$bin" train --config "$config" --out "$folder" "${options[@]}" "$@" >"$folder.log" 2>&1 ||
    { echo "error: $folder failed, see $folder.log" >&2; return 1; }
}

mkdir -p "$out"
running=0
for seed in $seeds; do
  for i in "${!names[@]}"; do
    if [ $running -eq "$jobs" ]; then
      wait -n
      running=$((running - 1))
    fi
    one "$out/$i-seed$seed" --set "train.seed=$seed" --set "${sets[i]}" &
    running=$((running + 1))
  done
done
while [ $running -gt 0 ]; do
  wait -n
  running=$((running - 1))
done

echo "| student / EMA teacher, mIoU in % |$(printf ' seed %s |' $seeds) mean ± standard deviation |"
echo "|---|$(printf -- '---|%.0s' $seeds)---|"
for i in "${!names[@]}"; do
  for seed in $seeds; do
    sed -n 's/.*iterations in .*mIoU student \([0-9.]*\) %, teacher \([0-9.]*\) %.*/\1 \2/p' \
      "$out/$i-seed$seed.log" | tail -n 1
  done | awk -v name="${names[i]}" '
    { row = row sprintf(" %.2f / %.2f |", $1, $2); s += $1; t += $2; ss += $1 * $1; tt += $2 * $2 }
    # One run has no spread.
    function mean(sum, squares) {
      if (NR < 2) return sprintf("%.2f", sum)
      return sprintf("%.2f ± %.2f", sum / NR, sqrt((squares - sum * sum / NR) / (NR - 1) + 1e-12))
    }
    END { printf "| %s |%s %s / %s |\n", name, row, mean(s, ss), mean(t, tt) }'
done
