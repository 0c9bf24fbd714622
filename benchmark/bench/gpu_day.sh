#!/usr/bin/env bash
# Check and measure this project on a machine with a GPU and without a network, in one command.
#
#   benchmark/bench/gpu_day.sh --download WHEELS      with a network: fetch what must be carried
#   benchmark/bench/gpu_day.sh WHEELS OUT [DEVICE]    without one: check, measure, write OUT
#
# DEVICE is cuda (default) or cpu. On a CPU the benches run in their smallest form, and the tests
# of the card itself are skipped.
#
# The machine must have Python 3.12 with torch 2.11 or newer, torchvision, timm, numpy, pandas,
# pyarrow, scipy, scikit-learn, h5py, pillow, jinja2, requests, rich, psutil, safetensors,
# hypothesis, pytest and pytest-xdist. CARRIED is everything else, in the versions of
# constraints.txt. transformers and huggingface_hub are carried although such machines have them,
# because vlpeft is bound to the version whose internals it uses. statsmodels and optuna are left
# out: only tests of statistics and searches need them, and these do not run here.

set -uo pipefail
ROOT=$(realpath "$(dirname "$0")/../..")

CARRIED="annotated-types datasets defusedxml dill easy-vqa evaluate ftfy hatchling httpcore2 httpx2
    huggingface-hub markdown-it-py multiprocess nltk open-clip-torch pathspec peft pluggy
    pycocoevalcap pycocotools pydantic pydantic-core ruamel-yaml shtab submitit tokenizers tomlkit
    transformers trove-classifiers truststore typing-inspection wcwidth xxhash"
PLATFORMS="manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
    manylinux_2_5_x86_64 manylinux1_x86_64"
BENCHES="throughput limit lora p_laplacian full_finetuning routing feature_cache ranking loading
    compile"
LIMIT_MIB=${LIMIT_MIB:-} # fail if the wheels and the repository are larger together

download() {
    local wheels=$1 platforms=()
    for platform in $PLATFORMS; do platforms+=(--platform "$platform"); done
    # shellcheck disable=SC2086 # the names are words
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp "${platforms[@]}" -c constraints.txt -d "$wheels" $CARRIED || return
    # 104 MB of Java and word lists. The scorers in Python are enough: texts are compared as texts.
    (cd "$wheels" && python3 - pycocoevalcap-*.whl) <<'PYTHON' || return
import os, sys, zipfile

kept = (".py", "LICENSE", "license.txt", "METADATA", "WHEEL", "RECORD", "top_level.txt")
with zipfile.ZipFile(sys.argv[1]) as whole:
    with zipfile.ZipFile("small", "w", zipfile.ZIP_DEFLATED) as small:
        for entry in whole.infolist():
            if entry.filename.endswith(kept):
                small.writestr(entry, whole.read(entry))
os.replace("small", sys.argv[1])
PYTHON
    local size
    size=$(du -cm "$wheels" $(git ls-files) | tail -n 1 | cut -f 1)
    echo "$wheels: $(find "$wheels" -name '*.whl' | wc -l) wheels; $size MiB with the repository"
    if [ -n "$LIMIT_MIB" ] && [ "$size" -gt "$LIMIT_MIB" ]; then
        echo "more than $LIMIT_MIB MiB" >&2
        return 1
    fi
}

# A virtual environment in front of the machine's own packages, which it leaves as they are.
install() {
    local wheels=$1 place=$2
    python3 -m venv --without-pip "$place" || return
    python3 -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("-packages")))' \
        > "$(echo "$place"/lib/python3*/site-packages)/machine.pth" || return
    python3 -m pip --python "$place/bin/python" install --quiet --no-index --no-deps \
        --no-compile --ignore-installed "$wheels"/*.whl || return
    python3 -m pip --python "$place/bin/python" install --quiet --no-index --no-deps \
        --no-build-isolation --editable .
}

# Run a step, keep its output, and remember whether it failed.
step() {
    local name=$1 began=$SECONDS
    shift
    "$@" > >(tee "$OUT/$name.txt") 2>&1
    local code=$?
    echo "$name: exit code $code, $((SECONDS - began)) s" | tee -a "$OUT/summary.txt"
    [ $code -eq 0 ] || FAILED="$FAILED $name"
}

if [ "${1:-}" = --download ] && [ $# -eq 2 ]; then
    WHEELS=$(realpath -m "$2")
    cd "$ROOT" || exit
    download "$WHEELS"
    exit
fi
if [ $# -lt 2 ] || [ ! -d "$1" ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

WHEELS=$(realpath "$1") OUT=$2 DEVICE=${3:-cuda} FAILED=""
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
cd "$ROOT" || exit
PLACE=$(mktemp -d)
trap 'rm -rf "$PLACE"' EXIT
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
export PYTHONDONTWRITEBYTECODE= XDG_CACHE_HOME="$PLACE/cache" VLPEFT_TEST_DEVICE="$DEVICE"
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # for deterministic algorithms
OPTIONS=(--turns 3 --keep "$OUT")
[ "$DEVICE" = cpu ] && OPTIONS=(--turns 1 --quick)
TESTS=4
[ "$(nproc)" -lt 4 ] && TESTS=2

: > "$OUT/summary.txt"
step install install "$WHEELS" "$PLACE/env"
[ -z "$FAILED" ] || exit 1
BIN="$PLACE/env/bin"
step versions python3 -m pip --python "$BIN/python" list
step tests "$BIN/python" -m pytest -n "$TESTS" --dist worksteal -q -m gpu -W default \
    --show-capture=stderr -p no:cacheprovider tests/gpu
# shellcheck disable=SC2086 # the names are words
step bench "$BIN/vlpeft" bench $BENCHES --device "$DEVICE" "${OPTIONS[@]}"
cat "$OUT/summary.txt"
[ -z "$FAILED" ] || { echo "failed:$FAILED" >&2; exit 1; }
