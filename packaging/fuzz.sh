#!/usr/bin/env bash
# Coverage-guided fuzzing of every reader of bytes that somebody else may have written, for FUZZ_SECONDS each (60 unless set).
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/fuzz-tools
[ -x "$tools/bin/cargo-fuzz" ] || cargo install --quiet --locked --root "$tools" cargo-fuzz
export PATH="$tools/bin:$PATH" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/fuzz"
# Coverage needs compiler flags that a stable toolchain keeps behind this variable.
export RUSTC_BOOTSTRAP=1
mkdir -p fuzz/corpus/{card,frame,records,index,sources,sweep,broker}
cp packaging/cards/*.toml fuzz/corpus/card/
echo '{"index":"i","vector":[0.5,-0.25,1, 12.125,0.05103103816509247],"k":3}' >fuzz/corpus/frame/search
for target in ${FUZZ_TARGETS:-frame card records index sources sweep broker}; do
    echo "fuzz: $target for ${FUZZ_SECONDS:-60} s" >&2
    cargo fuzz run --sanitizer none "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -print_final_stats=1 2>&1 | tail -12
done
