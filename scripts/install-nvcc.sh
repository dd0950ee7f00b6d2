#!/usr/bin/env bash
# Fetches nvcc 13.0 from PyPI into .cuda/ of this project, where build.rs looks for it: no CUDA
# installation, no root, no GPU. Needs Python with pip. About 400 MB; a second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
into=.cuda
if [ -x "$into/bin/nvcc" ] && "$into/bin/nvcc" --version >/dev/null 2>&1; then
  echo "nvcc is already in $into"
  exit 0
fi
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python; install Python 3, or set PYTHON" >&2; exit 1; }
rm -rf "$into.part"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$into.part" \
  'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
  'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
# The wheels share one tree, nvidia/cu13; nvcc finds everything beside itself there.
rm -rf "$into"
mv "$into.part/nvidia/cu13" "$into"
rm -rf "$into.part"
chmod +x "$into"/bin/* "$into"/nvvm/bin/* 2>/dev/null || true
"$into/bin/nvcc" --version | tail -n 2
