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
    runtime=$cache/brahman-build/onnxruntime-gpu-1.31.1
    if [ ! -e "$runtime/whole" ]; then
        echo "bench-gpu: fetching onnxruntime-gpu 1.31.1 (256 MB)" >&2
        rm -rf "$runtime"
        mkdir -p "$runtime"
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
            --implementation cp --abi cp312 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --dest "$runtime" onnxruntime-gpu==1.31.1
        "$python" - "$runtime" <<'PY'
import glob, os, shutil, sys, zipfile
wheel, = glob.glob(f"{sys.argv[1]}/*.whl")
with zipfile.ZipFile(wheel) as z:
    for name in z.namelist():
        if name.startswith("onnxruntime/capi/libonnxruntime") and "tensorrt" not in name:
            with z.open(name) as a, open(f"{sys.argv[1]}/{os.path.basename(name)}", "wb") as b:
                shutil.copyfileobj(a, b)
os.remove(wheel)
PY
        touch "$runtime/whole"
    fi
    ORT_DYLIB_PATH=$(echo "$runtime"/libonnxruntime.so.*)
fi
export ORT_DYLIB_PATH
"$bin/brahman" models pull
exec "$python" -u benches/gpu.py --bin "$bin" --cards packaging/cards --model "${BRAHMAN_MODEL_DIR:-${BRAHMAN_CACHE:-$cache/brahman}/models/all-MiniLM-L6-v2}" \
    --ort "$ORT_DYLIB_PATH" --out "$out" "$@"
