#!/usr/bin/env bash
# The main job with real parts, in a private directory; leaves nothing running. First on a small real folder, so that the first answer is
# there within a minute of the build, then on the large one.
# demo.sh PROGRAMS CARDS LATER BUILD [INPUT]. CARDS are the labels of the modules that run; their programs lie in the folder PROGRAMS. LATER
# are those that join after the first answers; the command BUILD makes their programs. INPUT is a folder of one's own; without it a terminal
# is asked about the whole checkout.
set -euo pipefail
started=$(date +%s%N)
bin=$1 labels=$2 later=$3 input=${5:+$(realpath "$5")}
read -r -a build <<<"$4"
PATH="$bin:$PATH"
here=$(cd "$(dirname "$0")" && pwd)

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
# seconds SINCE: with a tenth, from a time in nanoseconds.
seconds() { local ns=$(($(date +%s%N) - $1)); printf '%d.%d' $((ns / 1000000000)) $((ns / 100000000 % 10)); }
# timed COMMAND…: says how long it took.
timed() { local since; since=$(date +%s%N); run "$@"; printf '(%s s)\n' "$(seconds "$since")"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/brahman-demo.XXXXXX")
export BRAHMAN_SOCKET="$work/run/brahman.sock" BRAHMAN_STATE="$work/state"
mkdir "$work/cards"
deal() { for label in "$@"; do cp "$here/cards/$label.toml" "$work/cards"; done; }
# shellcheck disable=SC2086
deal $labels
mesh=
finish() {
    if [ -n "$mesh" ] && kill -0 "$mesh" 2>/dev/null; then
        kill -TERM "$mesh" 2>/dev/null || true
        wait "$mesh" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

say "the model and ONNX Runtime (fetched once, then kept in the cache)"
timed brahman models pull

# Embedding and searching need no language model; scoring memories does, at the end. The small one that the tests are made with, two
# layers over bytes, is for a machine that reaches no model hub.
export BRAHMAN_SCORE_MODEL=${BRAHMAN_SCORE_MODEL:-$here/../tests/assets/induction}

say "the mesh, in context prod"
brahman up --context prod --cards "$work/cards" 2>"$work/log" &
mesh=$!
brahman status --wait 120

docs=$(realpath "$here/../docs")
say "the pages of $docs become a dataset, and the dataset an index"
timed brahman ingest files demo "$docs"
run brahman index create demo --dataset demo
timed brahman index refresh demo

say "three questions"
first=
for question in "how does a module say that it is ready?" "what happens to a call when its provider dies?" "how are texts of different length batched?"; do
    printf '\n'
    run brahman search demo "$question" -k 3
    [ -n "$first" ] || { first=$(seconds "$started") && printf '(the first answer, %s s after the start of this script)\n' "$first"; }
done

say "the same text, by context: prod, test, prod"
run brahman embed "one text"
run brahman context test
run brahman embed "one text"
run brahman context prod
run brahman embed "one text"

say "SIGKILL of the real provider during a query"
victim=$(brahman status --json | python3 -c 'import json,sys; print(next(m["pid"] for m in json.load(sys.stdin)["modules"] if m["label"]=="embed-real"))')
# New texts, so that they are really computed, for seconds, and the kill falls into the middle of it.
python3 - "$work/texts" <<'PY'
import random, sys
words = "mesh card flow broker socket vector index memory table dataset provider context restart signal".split()
with open(sys.argv[1], "w") as out:
    for i in range(500):
        print(i, " ".join(random.choice(words) for _ in range(80)), file=out)
PY
queue() { brahman call embed.Info --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["queue"])'; }
brahman embed --stdin --json <"$work/texts" >"$work/answer" &
query=$!
until [ "$(queue)" -gt 0 ] || ! kill -0 "$query" 2>/dev/null; do :; done
printf '$ kill -9 %s   # embed-real, with texts in its queue\n' "$victim"
kill -9 "$victim"
if wait "$query"; then
    python3 -c 'import json,sys; a=json.load(open(sys.argv[1])); print("answered:", len(a["vectors"]), "vectors of", a["model"])' "$work/answer"
else
    echo "the query was lost" >&2
    exit 1
fi

say "status"
run brahman status

# shellcheck disable=SC2086
say "more modules join the running mesh:" $later
for label in $later; do
    program=$(sed -n 's/^exec = "\(.*\)"$/\1/p' "$here/cards/$label.toml")
    (cd "$here/.." && "${build[@]}" --bin "$program")
done
# shellcheck disable=SC2086
deal $later
run brahman reload
brahman status --wait 120 >"$work/status"

say "which memories the answers of a conversation depend on (this alone needs a language model: $(basename "$BRAHMAN_SCORE_MODEL"))"
run brahman score matrix "$here/../examples/memories/conversation.json"

# The large one: what was named, or the checkout, if whoever sits there wants it.
if [ -z "$input" ] && [ -t 0 ] && [ -t 1 ]; then
    printf '\nThe same on the whole checkout takes minutes (about 50 chunks a second on two cores). Go on? [y/N] '
    read -r answer || answer=
    case $answer in [yY]*) input=$(realpath "$here/..") ;; esac
fi
if [ -n "$input" ]; then
    say "the same on $input"
    timed brahman ingest files large "$input"
    run brahman index create large --dataset large
    timed brahman index refresh large
    timed brahman search large "how does a module say that it is ready?" -k 3
fi

say "down"
run brahman down
wait "$mesh"
mesh=
if pgrep -f "$work" >/dev/null; then
    echo "something is still running:" >&2
    pgrep -af "$work" >&2
    exit 1
fi
echo "nothing is left running"
echo "first answer after $first s; all of it took $(seconds "$started") s"
[ -n "$input" ] || echo "on files of your own: make demo INPUT=path"
