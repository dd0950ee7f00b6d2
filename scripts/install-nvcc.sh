#!/usr/bin/env bash
# Fetches nvcc 13.0, and what takes its output apart (cuobjdump, nvdisasm), from PyPI into .cuda/ of
# this project, where the build looks for it: no CUDA installation, no root, no GPU. Needs Python 3
# with pip, and a host g++ to compile with. About 400 MB on disk; a second run does nothing. PYTHON
# names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
into=.cuda
part=.cuda.part

works() {
  for tool in nvcc cuobjdump nvdisasm; do "$into/bin/$tool" --version >/dev/null 2>&1 || return 1; done
}
if works; then
  echo "nvcc is already in $into: $("$into/bin/nvcc" --version | sed -n 's/.*release //p')"
  exit 0
fi

python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python: install Python 3, or set PYTHON" >&2; exit 1; }
"$python" -m pip --version >/dev/null 2>&1 ||
  { echo "$python has no pip: install it (python3-pip), or set PYTHON to one that has" >&2; exit 1; }
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) echo "PyPI has no nvcc for $(uname -s) on $(uname -m): install CUDA and set CUDA_HOME" >&2; exit 1 ;;
esac

# Into a folder beside, moved when whole: an interrupted run leaves nothing that looks installed.
trap 'rm -rf "$part"' EXIT
rm -rf "$part"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-cache-dir --target "$part" \
  'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
  'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' \
  'nvidia-cuda-cuobjdump==13.2.*' 'nvidia-cuda-nvdisasm==13.2.*' # not there in 13.0; they read its output
# The wheels share one tree, nvidia/cu13; nvcc finds everything beside itself there.
rm -rf "$into"
mv "$part/nvidia/cu13" "$into"
chmod +x "$into"/bin/* "$into"/nvvm/bin/* 2>/dev/null || true
works || { echo "nvcc, cuobjdump or nvdisasm in $into/bin does not run on this machine" >&2; exit 1; }
command -v g++ >/dev/null || echo "nvcc needs a host compiler to build with: install g++" >&2
# A build without nvcc does not look again by itself.
touch build.rs
echo "nvcc is in $into: $("$into/bin/nvcc" --version | sed -n 's/.*release //p'); build again"
