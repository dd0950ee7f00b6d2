#!/usr/bin/env bash
# A night in small: a run over files of which 1 % of the unlabelled ones are damaged, killed three times,
# with one bit flipped in a checkpoint and once on a full disk, must end like the same run unbroken.
#
#   scripts/night.sh [ITERATIONS] [BINARY]        2000 iterations, target/release/u2pl-engine
#
# Needs python3 (its standard library). As root the disk is a tmpfs that is filled up; otherwise files
# larger than a limit stand for it. Everything lies in a temporary folder; NIGHT_KEEP=1 keeps it.
# NIGHT_DAMAGED=N damages N of the 200 unlabelled images instead of 2.
set -euo pipefail
iterations=${1:-2000}
binary=$(realpath "${2:-target/release/u2pl-engine}")
dir=$(mktemp -d)
disk=$dir/disk
mkdir "$disk"
tmpfs=no
pid=
cleanup() {
  # A run that is still going holds the disk.
  if [ -n "$pid" ]; then kill -9 "$pid" 2> /dev/null || true; wait "$pid" 2> /dev/null || true; fi
  if [ "$tmpfs" = yes ]; then umount "$disk" || true; fi
  if [ -z "${NIGHT_KEEP:-}" ]; then rm -rf "$dir"; else echo "kept: $dir"; fi
}
trap cleanup EXIT
cd "$dir"

python3 - <<'PY'
import os, random, struct, zlib
def png(path, w, h, rows, colour):
    part = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    raw = b''.join(b'\0' + row for row in rows)
    open(path, 'wb').write(b'\x89PNG\r\n\x1a\n' + part(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, colour, 0, 0, 0))
                           + part(b'IDAT', zlib.compress(raw)) + part(b'IEND', b''))
os.makedirs('d/images'); os.makedirs('d/masks')
side, r = 48, random.Random(7)
for kind, n in (('l', 16), ('u', 200), ('v', 6)):
    names = [f'{kind}{i:03d}' for i in range(n)]
    for name in names:
        shapes = [(r.randrange(1, 4), r.randrange(side), r.randrange(side), r.randrange(6, 14)) for _ in range(4)]
        mask = [bytearray(side) for _ in range(side)]
        for c, x0, y0, s in shapes:
            for y in range(max(0, y0 - s), min(side, y0 + s)):
                for x in range(max(0, x0 - s), min(side, x0 + s)):
                    if c == 1 or (x - x0) ** 2 + (y - y0) ** 2 < s * s: mask[y][x] = c
        tint = [(40, 40, 40), (200, 60, 60), (60, 200, 60), (60, 60, 200)]
        rows = [bytes(max(0, min(255, v + r.randrange(-30, 31))) for c in row for v in tint[c]) for row in mask]
        png(f'd/images/{name}.png', side, side, rows, 2)
        if kind != 'u': png(f'd/masks/{name}.png', side, side, [bytes(row) for row in mask], 0)
    open(f'{kind}.txt', 'w').write('\n'.join(names) + '\n')
# One in a hundred of the unlabelled images is cut off in the middle.
for i in r.sample(range(200), int(os.environ.get('NIGHT_DAMAGED', '2'))):
    path = f'd/images/u{i:03d}.png'; data = open(path, 'rb').read(); open(path, 'wb').write(data[:len(data) // 2])
PY
cat > night.yaml <<YAML
data: {kind: folder, root: d, labeled: l.txt, unlabeled: u.txt, val: v.txt, classes: 4}
augment: {crop: [49, 49]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
train: {batch_labeled: 2, batch_unlabeled: 2, epochs: $((iterations / 10)), epoch_iters: 10, warmup_epochs: 2, lr: 0.01, log_every: 1}
method: {bank_background: 64, bank_size: 64, anchors: 8, negatives: 4}
YAML

train() { "$binary" train --config night.yaml "$@" > "$dir/log" 2>&1; }
done_in() { python3 -c "
import json, struct
f = open('$1/checkpoints/last.safetensors', 'rb'); n = struct.unpack('<Q', f.read(8))[0]
print(json.loads(f.read(n))['__metadata__']['iteration'])"; }
fail() { echo "FAIL: $*"; tail -5 "$dir/log"; exit 1; }

echo "unbroken: $iterations iterations"
train --out whole || fail "the unbroken run"

if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=64m tmpfs "$disk" 2> /dev/null; then tmpfs=yes; fi
run=$disk/run
resume=
for k in 1 2 3; do
  "$binary" train --config night.yaml --out "$run" $resume > "$dir/log" 2>&1 &
  pid=$!
  want=$((iterations * k / 5))
  until [ -e "$run/metrics.jsonl" ] && tail -c 4000 "$run/metrics.jsonl" | grep -q "\"iter\":$want,"; do
    kill -0 $pid 2> /dev/null || fail "the run ended before kill $k"
    sleep 0.02
  done
  kill -9 $pid; wait $pid 2> /dev/null || true
  pid=
  echo "kill $k at iteration $want or later; the checkpoint is of $(done_in "$run")"
  resume=--resume
done

python3 - "$run/checkpoints/last.safetensors" <<'PY'
import sys
data = bytearray(open(sys.argv[1], 'rb').read()); at = len(data) * 2 // 3; data[at] ^= 4; open(sys.argv[1], 'wb').write(data)
print(f'one bit of byte {at} of last.safetensors flipped')
PY

if [ "$tmpfs" = yes ]; then
  # Room for nothing more: the next checkpoint does not fit, neither does the one that would make way.
  "$binary" train --config night.yaml --out "$run" --resume > "$dir/log" 2>&1 &
  pid=$!
  want=$((iterations * 4 / 5))
  until tail -c 4000 "$run/metrics.jsonl" | grep -q "\"iter\":$want,"; do
    kill -0 $pid 2> /dev/null || fail "the run ended before the disk was full"
    sleep 0.02
  done
  dd if=/dev/zero of="$disk/filler" bs=64k 2> /dev/null || true
  if wait $pid; then fail "nobody noticed the full disk"; fi
  pid=
  grep -q "No space left" "$dir/log" || fail "the full disk is not named"
  rm "$disk/filler"
else
  size=$(stat -c %s "$run/checkpoints/last.safetensors")
  if (ulimit -f $((size / 1024)); trap '' XFSZ; exec "$binary" train --config night.yaml --out "$run" --resume) > "$dir/log" 2>&1; then
    fail "nobody noticed the limit"
  fi
fi
echo "full disk: $(grep '^error' "$dir/log" | cut -c1-150)"
echo "the checkpoint is of $(done_in "$run")"

train --out "$run" --resume || fail "the last part"
grep -q '"damaged":"' "$run/metrics.jsonl" || fail "the metrics do not name the damaged checkpoint"
echo "what the metrics say besides losses:"
grep -v '"loss"' "$run/metrics.jsonl" | grep -v '"val"' | cut -c1-240
cmp "$run/checkpoints/last.safetensors" whole/checkpoints/last.safetensors || fail "another result than unbroken"
echo "PASS: the same $iterations iterations, bit for bit"
