#!/usr/bin/env bash
# embed-real on this machine's GPU beside sentence-transformers, in one run of at most 8 minutes; the table is FOLDER/gpu.md.
# bench-gpu.sh [FOLDER] [options of benches/gpu.py]…. What is set is used as it is: ORT_DYLIB_PATH (a GPU build, its providers beside
# it), BRAHMAN_MODEL_DIR, BRAHMAN_BENCH_GPU_PYTHON; what is not is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-bench}
shift || true
cache=${XDG_CACHE_HOME:-$HOME/.cache}
bin=${BRAHMAN_BIN:-${CARGO_TARGET_DIR:-$cache/brahman-build/target}/release}
mkdir -p "$out"
if [[ " $* " != *" --device cpu "* ]] && ! nvidia-smi -L; then
    echo "bench-gpu: no GPU here (nvidia-smi finds none)" >&2
    exit 1
fi
# Python with the peer: the one at hand, else an environment of its own.
python=${BRAHMAN_BENCH_GPU_PYTHON:-python3}
if ! "$python" -c 'import numpy, onnx, pyarrow, pynvml, safetensors, sentence_transformers, torch' 2>/dev/null; then
    if [ -n "${BRAHMAN_BENCH_GPU_PYTHON:-}" ]; then
        echo "bench-gpu: $python lacks numpy, onnx, pyarrow, nvidia-ml-py, safetensors, sentence-transformers or torch" >&2
        exit 1
    fi
    python=$cache/brahman-build/gpu-peers/bin/python3
    packages="torch==2.11.0 sentence-transformers==6.0.1 transformers==5.17.0 nvidia-ml-py==13.* onnx==1.23.1 pyarrow==26.0.1"
    if [ "$(cat "$cache/brahman-build/gpu-peers/installed" 2>/dev/null)" != "$packages" ]; then
        echo "bench-gpu: installing $packages" >&2
        rm -rf "$cache/brahman-build/gpu-peers"
        python3 -m venv "$cache/brahman-build/gpu-peers"
        # shellcheck disable=SC2086
        "$python" -m pip install --quiet --disable-pip-version-check $packages >&2
        echo "$packages" >"$cache/brahman-build/gpu-peers/installed"
    fi
fi
# The CUDA libraries that PyTorch brings, then this machine's own.
BRAHMAN_PLAIN_PATH=${LD_LIBRARY_PATH:-}
folders=$("$python" - <<'PY'
import glob, sys
found = [f for p in sys.path if p for f in glob.glob(f"{p}/nvidia/**/lib", recursive=True)]
print(":".join(found + glob.glob("/usr/local/cuda*/lib64") + glob.glob("/usr/local/nvidia/lib64")))
PY
)
export BRAHMAN_PLAIN_PATH LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ -z "${ORT_DYLIB_PATH:-}" ]; then
    "$bin/brahman" models pull --gpu --python "$python" >&2 || echo "bench-gpu: goes on without what is missing" >&2
    ORT_DYLIB_PATH=$(echo "${BRAHMAN_CACHE:-$cache/brahman}"/onnxruntime-gpu/libonnxruntime.so.*)
fi
export ORT_DYLIB_PATH
"$bin/brahman" models pull
exec "$python" -u benches/gpu.py --bin "$bin" --cards packaging/cards --model "${BRAHMAN_MODEL_DIR:-${BRAHMAN_CACHE:-$cache/brahman}/models/all-MiniLM-L6-v2}" \
    --ort "$ORT_DYLIB_PATH" --out "$out" "$@"
