#!/usr/bin/env bash
# Two versions of the programs in turn. versions.sh OLD OLD_CARDS NEW NEW_CARDS [commit|hop|embed|search|score|ingest]…
# OLD and NEW are folders of programs, built by `make release` and copied away.
set -euo pipefail
cd "$(dirname "$0")/.."
BRAHMAN_TEST_TOOLS=$(packaging/tools.sh)
export BRAHMAN_TEST_TOOLS
lscpu | grep -E '^(Model name|CPU\(s\))'
# pyarrow, NumPy, boto3 and SeaweedFS are among the tests' tools.
"$BRAHMAN_TEST_TOOLS/bin/python3" benches/versions.py "$@"
