#!/usr/bin/env bash
# Checks the CUDA device on a machine with a GPU, and leaves the evidence in one folder.
# Needs this script and the u2pl-engine binary; see usage() below, or run it with --help.
set -uo pipefail

usage() {
    cat <<'TEXT'
usage: gpu-check.sh [--bin FILE] [--out DIR] [--device NAME] [--precision P]
                    [--data DIR] [--config FILE] [--set KEY=VALUE]... [--iters N]
                    [--peer PYTHON] [--skip STEP]...

Runs, in this order, and writes DIR/gpu-check.json with the verdict of each step:
  info       what the binary and the machine have
  selftest   every operation in every precision against the CPU
  sanitizer  compute-sanitizer's memcheck and racecheck on every operation of the selftest
             (skipped where compute-sanitizer is not installed)
  train      a short training run: the built-in demo on images made on the fly; with --data, the
             CamVid recipe on that folder; with --config, that recipe; the time of every operation
             of its last step, by CUDA events, goes into "profile"
  kernels    time by kernel of a few training steps, by Nsight Systems (nsys)
             (skipped where nsys is not installed)
  bench      time of every operation of the VOC recipe against its floor; with --peer, PyTorch
             (cuDNN) at each of them, at inference and at the whole training step, in turn with the
             engine: bench.json, peers.json, infer.json, step.json

  --bin FILE       the binary (default: u2pl-engine beside this script, in ../target/release, or
                   on the PATH)
  --out DIR        where everything goes (default: gpu-check-DATE-TIME)
  --device NAME    cuda, cuda:N, or simt to try this script without a GPU (default: cuda)
  --precision P    of the training steps: fp32, tf32 or bf16 (default: bf16)
  --data DIR       a dataset in the VOC layout with splits/46 (see configs/camvid_cpu.yaml)
  --config FILE    a recipe instead; DIR, if given, becomes its data.root
  --set KEY=VALUE  passed on to train; may be given several times
  --iters N        training iterations (default: 200)
  --peer PYTHON    a Python with a CUDA build of PyTorch, for bench
  --skip STEP      leave a step out; may be given several times

Each option can be given as an environment variable instead: BIN, OUT, DEVICE, PRECISION, DATA,
CONFIG, ITERS, PEER.

Exit status: 0 every step passed or was skipped, 1 one failed, 2 wrong usage.
TEXT
}

wrong() {
    echo "error: $1; see --help" >&2
    exit 2
}

BIN=${BIN:-}
OUT=${OUT:-}
DEVICE=${DEVICE:-cuda}
PRECISION=${PRECISION:-bf16}
DATA=${DATA:-}
CONFIG=${CONFIG:-}
ITERS=${ITERS:-200}
PEER=${PEER:-}
sets=()
skips=" "
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --bin | --out | --device | --precision | --data | --config | --set | --iters | --peer | --skip)
            [ $# -ge 2 ] || wrong "$1 needs a value" ;;
        *) wrong "unknown argument $1" ;;
    esac
    case $1 in
        --bin) BIN=$2 ;;
        --out) OUT=$2 ;;
        --device) DEVICE=$2 ;;
        --precision) PRECISION=$2 ;;
        --data) DATA=$2 ;;
        --config) CONFIG=$2 ;;
        --set) sets+=(--set "$2") ;;
        --iters) ITERS=$2 ;;
        --peer) PEER=$2 ;;
        --skip)
            case $2 in
                info | selftest | sanitizer | train | kernels | bench) skips+="$2 " ;;
                *) wrong "--skip $2: no such step" ;;
            esac ;;
    esac
    shift 2
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -z "$BIN" ]; then
    for candidate in "$here/u2pl-engine" "$here/../target/release/u2pl-engine" \
        "$(command -v u2pl-engine || true)"; do
        if [ -x "$candidate" ]; then
            BIN=$candidate
            break
        fi
    done
fi
[ -n "$BIN" ] || wrong "no u2pl-engine found: give --bin"
[ -x "$BIN" ] || wrong "$BIN cannot be run"
BIN=$(cd "$(dirname "$BIN")" && pwd)/$(basename "$BIN")
[ -z "$DATA" ] || [ -d "$DATA" ] || wrong "--data $DATA: no such folder"
[ -z "$CONFIG" ] || [ -f "$CONFIG" ] || wrong "--config $CONFIG: no such file"
case $ITERS in *[!0-9]* | '' | 0) wrong "--iters $ITERS: not a number" ;; esac
case $PRECISION in fp32 | tf32 | bf16) ;; *) wrong "--precision $PRECISION: not fp32, tf32 or bf16" ;; esac
OUT=${OUT:-gpu-check-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$OUT" || wrong "--out $OUT: cannot be created"
OUT=$(cd "$OUT" && pwd)
[ -z "$DATA" ] || DATA=$(cd "$DATA" && pwd)
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)

# --- What the steps found, as JSON -----------------------------------------------------------

# A string as JSON.
quoted() {
    printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\010\013-\037' |
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | awk 'NR > 1 {printf "\\n"} {printf "%s", $0}')"
}

# A file that holds JSON, or null.
embedded() {
    if [ -s "$1" ]; then cat "$1"; else printf 'null'; fi
}

steps=""
failed=0
# record NAME VERDICT SECONDS DETAIL [KEY JSON]: remembers one step and says how it went.
record() {
    local line
    line=$(printf '    {"step": "%s", "verdict": "%s", "seconds": %s, "detail": %s' \
        "$1" "$2" "$3" "$(quoted "$4")")
    [ $# -lt 6 ] || line+=", \"$5\": $6"
    steps+="${steps:+,$'\n'}$line}"
    printf '%-10s %-5s %5s s  %s\n' "$1" "$2" "$3" "$4"
    [ "$2" != fail ] || failed=1
}

skipped() {
    case $skips in *" $1 "*) record "$1" skip 0 "left out by --skip"; return 0 ;; esac
    return 1
}

# run LOG COMMAND...: output to a file; the command's status.
run() {
    local log=$1
    shift
    printf '+ %s\n' "$*" >"$log"
    "$@" >>"$log" 2>&1
}

# The last line that says what went wrong.
reason() {
    local line
    line=$(grep -a '^error' "$1" | tail -n 1)
    printf '%s' "${line:-see $(basename "$1")}"
}

# --- The steps -------------------------------------------------------------------------------

info() {
    skipped info && return
    local start=$SECONDS log=$OUT/info.log
    if "$BIN" info --json >"$OUT/info.json" 2>"$log"; then
        record info pass $((SECONDS - start)) "$("$BIN" --version)"
    else
        record info fail $((SECONDS - start)) "$(reason "$log")"
    fi
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi >"$OUT/nvidia-smi.txt" 2>&1
        gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null)
    fi
}

selftest() {
    skipped selftest && return
    local start=$SECONDS log=$OUT/selftest.log verdict=pass
    run "$log" "$BIN" selftest --device "$DEVICE" --json "$OUT/selftest.json" || verdict=fail
    local detail
    detail=$(grep -a ' cases, .* failed$' "$log" | tail -n 1)
    record selftest $verdict $((SECONDS - start)) "${detail:-$(reason "$log")}"
}

# The operations that the selftest knows here.
operations() {
    sed -n 's/.*"operation": "\([a-z0-9_]*\)".*/\1/p' "$OUT/selftest.json" 2>/dev/null | sort -u
}

sanitizer() {
    skipped sanitizer && return
    local start=$SECONDS tool operation results="" bad=0 checked=0 log
    if ! command -v compute-sanitizer >/dev/null; then
        record sanitizer skip 0 "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
        return
    fi
    case $DEVICE in
        simt) record sanitizer skip 0 "the simt device runs on the CPU"; return ;;
    esac
    mkdir -p "$OUT/sanitizer"
    for operation in $(operations); do
        [ "$operation" != philox ] || continue
        for tool in memcheck racecheck; do
            log=$OUT/sanitizer/$tool-$operation.log
            checked=$((checked + 1))
            if run "$log" compute-sanitizer --tool $tool --error-exitcode 99 \
                "$BIN" selftest --device "$DEVICE" --op "$operation"; then
                verdict=pass
            else
                verdict=fail
                bad=$((bad + 1))
            fi
            results+="${results:+, }{\"tool\": \"$tool\", \"operation\": \"$operation\", \"verdict\": \"$verdict\"}"
        done
    done
    local verdict=pass
    [ $bad = 0 ] || verdict=fail
    if [ $checked = 0 ]; then
        record sanitizer fail $((SECONDS - start)) "no operations: the selftest did not run"
    else
        record sanitizer $verdict $((SECONDS - start)) "$checked checks, $bad failed" runs "[$results]"
    fi
}

# The CamVid recipe of configs/camvid_cpu.yaml, in case only this script is here.
camvid_recipe() {
    cat <<'YAML'
data:
  kind: voc
  labeled: splits/46/labeled.txt
  unlabeled: splits/46/unlabeled.txt
  val: splits/val.txt
  classes: 11
  class_names: [sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist]
  ignore_index: 255
  image_scale: 0.4
  cache_mib: 256
augment: { crop: [128, 160], scale: [0.5, 2.0], mix: cutmix, mix_prob: 1.0 }
model:
  encoder: resnet18
  stem: deep
  width: 32
  output_stride: 16
  multi_grid: false
  aspp_dilations: [3, 6, 9]
  head_width: 64
  rep_width: 64
train:
  algorithm: u2pl
  epochs: 40
  epoch_iters: 75
  warmup_epochs: 20
  batch_labeled: 4
  batch_unlabeled: 4
  lr: 0.05
  head_lr_mult: 1.0
  weight_decay: 0.0001
  val_every: 5
method: { alpha0: 60, unsup_weight: 0.5, ema: 0.99, contrast_weight: 0.1, anchors: 64, negatives: 50, bank_background: 3000, bank_size: 3000 }
eval: { protocol: whole }
YAML
}

# The arguments of a training run into `recipe`.
choose_recipe() {
    recipe=()
    what="the demo"
    if [ -n "$CONFIG" ]; then
        recipe=(--config "$CONFIG")
        what=$(basename "$CONFIG")
    elif [ -n "$DATA" ]; then
        camvid_recipe >"$OUT/recipe.yaml"
        # Few iterations: U2PL from the first epoch on, or they would all be warm-up.
        recipe=(--config "$OUT/recipe.yaml" --set train.warmup_epochs=0)
        what="the CamVid recipe without warm-up"
    else
        recipe=(--set train.warmup_epochs=0)
    fi
    [ -z "$DATA" ] || recipe+=(--set "data.root=$DATA")
    # Losses are written every tenth iteration unless there are fewer.
    [ "$ITERS" -ge 10 ] || recipe+=(--set train.log_every=1)
    recipe+=(${sets[@]+"${sets[@]}"})
}

train() {
    skipped train && return
    local start=$SECONDS log=$OUT/train.log verdict=pass detail
    rm -rf "$OUT/train"
    run "$log" "$BIN" train --device "$DEVICE" --precision "$PRECISION" "${recipe[@]}" \
        --max-iters "$ITERS" --profile --out "$OUT/train" || verdict=fail
    # The last run's summary: "u2pl: 200 iterations in 12 s; mIoU ...".
    detail=$(grep -a -E '^[a-z0-9]+: [0-9]+ iterations in ' "$log" | tail -n 1)
    if [ $verdict = pass ]; then
        local losses
        losses=$(find "$OUT/train" -name metrics.jsonl -exec grep -a -h '"loss"' {} + | tail -n 1)
        case $losses in
            '' | *NaN* | *'"sup":null'*) # how a loss that is no number is written
                verdict=fail
                detail="no finite losses in metrics.jsonl" ;;
        esac
        record train $verdict $((SECONDS - start)) "$what, $PRECISION: $detail" last "${losses:-null}"
    else
        record train fail $((SECONDS - start)) "$what, $PRECISION: $(reason "$log")"
    fi
}

kernels() {
    skipped kernels && return
    local start=$SECONDS log=$OUT/kernels.log
    case $DEVICE in
        simt) record kernels skip 0 "the simt device's times say nothing of a GPU"; return ;;
    esac
    if ! command -v nsys >/dev/null; then
        record kernels skip 0 "nsys is not installed; train has the time of every operation"
        return
    fi
    rm -rf "$OUT/profiled" "$OUT"/kernels.nsys-rep "$OUT"/kernels.sqlite
    if run "$log" nsys profile --trace=cuda --cuda-graph-trace=node --force-overwrite=true \
        -o "$OUT/kernels" "$BIN" train --device "$DEVICE" --precision "$PRECISION" "${recipe[@]}" \
        --max-iters 20 --out "$OUT/profiled" &&
        nsys stats --force-export=true --report cuda_gpu_kern_sum --format csv \
            "$OUT/kernels.nsys-rep" >"$OUT/kernels.csv" 2>>"$log"; then
        # Time(%),Total Time (ns),Instances,...,Name -> [{"kernel", "ms", "launches"}]
        awk -F, '
            /^Time/ { on = 1; next }
            on && NF > 3 {
                name = $NF; gsub(/"/, "", name)
                printf "%s{\"kernel\": \"%s\", \"ms\": %.6f, \"launches\": %d}", sep, name, $2 / 1e6, $3
                sep = ", "
            }
            BEGIN { printf "[" } END { printf "]\n" }' "$OUT/kernels.csv" >"$OUT/kernels.json"
        record kernels pass $((SECONDS - start)) "20 iterations of $what, $PRECISION" \
            kernels "$(cat "$OUT/kernels.json")"
    else
        record kernels fail $((SECONDS - start)) "$(reason "$log")"
    fi
}

# measure FILE ARGUMENTS: one benchmark into bench.log and FILE; why it failed is kept.
measure() {
    local file=$1 log=$OUT/${1%.json}.log
    shift
    run "$log" "$BIN" bench "$@" --device "$DEVICE" --json "$OUT/$file" && return
    problem=${problem:-$(reason "$log")}
    return 1
}

bench() {
    skipped bench && return
    local start=$SECONDS problem="" done=""
    # On other devices than a GPU only whether it runs is of interest.
    local recipe=(--recipe tiny) step=(--case train129 --crop 33) infer=(--case infer --size 33 33)
    local repeats=(--repeats 1) time=(--time 0)
    case $DEVICE in
        cuda*) recipe=(--recipe voc) step=() infer=() repeats=(--repeats 5) time=() ;;
    esac
    local arithmetic=(--precision "$PRECISION")
    measure bench.json "${recipe[@]}" ${time[@]+"${time[@]}"} "${arithmetic[@]}" && done+=" operations"
    if [ -n "$PEER" ]; then
        local peer=(--peer "$PEER" "${repeats[@]}" "${arithmetic[@]}")
        measure peers.json "${recipe[@]}" "${peer[@]}" && done+=" operations/PyTorch"
        measure infer.json infer ${infer[@]+"${infer[@]}"} "${peer[@]}" && done+=" infer/PyTorch"
        measure step.json step ${step[@]+"${step[@]}"} "${peer[@]}" && done+=" step/PyTorch"
    fi
    local verdict=pass
    [ -z "$problem" ] || verdict=fail
    record bench $verdict $((SECONDS - start)) "measured:$done${problem:+; $problem}" \
        peers "{\"operations\": $(embedded "$OUT/peers.json"), \"infer\": $(embedded "$OUT/infer.json"), \"step\": $(embedded "$OUT/step.json")}"
}

gpu=""
choose_recipe
echo "$("$BIN" --version), device $DEVICE, results in $OUT"
info
selftest
sanitizer
train
kernels
bench

{
    printf '{\n  "date": "%s",\n  "device": %s,\n  "gpu": %s,\n  "verdict": "%s",\n' \
        "$started" "$(quoted "$DEVICE")" "$(quoted "$gpu")" "$([ $failed = 0 ] && echo pass || echo fail)"
    printf '  "steps": [\n%s\n  ],\n  "info": ' "$steps"
    embedded "$OUT/info.json"
    printf ',\n  "profile": '
    embedded "$(find "$OUT/train" -path '*profile.json' 2>/dev/null | sort | tail -n 1)"
    printf ',\n  "selftest": '
    embedded "$OUT/selftest.json"
    printf '}\n'
} >"$OUT/gpu-check.json"
echo "$([ $failed = 0 ] && echo pass || echo FAIL): $OUT/gpu-check.json"
exit $failed
