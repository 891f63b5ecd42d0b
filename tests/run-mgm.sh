#!/bin/sh
# Runs MGM's own loader on bundles, on a CPU: three classes, every scheme, in the two environments that MGM has.
#
# Takes MGM from $MGM, a checkout, or clones it into .venv-mgm/MGM at the commit that formats/families describes. Installs
# the pinned packages into .venv-mgm at first use (about 5 GB). PYTHON names the interpreter, by default 3.10, else 3.11.
# Then the environment that an int8 bundle of MGM-7B pins is made as its user makes it, and the bundle loaded there
# (tests/environments). LISTS=all does so for every list that a bundle can hold: for a nightly run, half an hour and more.
# With --environment it makes the two environments and nothing else.
# PROFILE is cargo's profile, `release` by default; MGPACK names a binary that is there already.
set -eu
cd "$(dirname "$0")/.."

url=https://github.com/dvlab-research/MGM
commit=769820c
environment=.venv-mgm

stop() {
    echo "tests/run-mgm.sh: $*" >&2
    exit 1
}

# An interpreter that answers: a shim on PATH may be there without its version.
find_python() {
    for candidate in ${PYTHON:-python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python3.10 python3.11}; do
        "$candidate" -c 'import venv' 2>/dev/null && echo "$candidate" && return
    done
    stop "no Python 3.10 or 3.11 here; PYTHON names one"
}

# The environment in $1 by the list $2, made anew where the list has changed. "$3": site-packages to share, or empty.
provide() {
    stamp=$1/requirements.installed
    if ! cat "$2" | cmp -s - "$stamp"; then
        rm -rf "$1"
        "$python" -m venv "$1"
        if [ -n "$3" ]; then
            echo "$3" >"$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
        fi
        # --no-deps: the lists are complete.
        "$1/bin/python" -m pip install --quiet --no-deps --disable-pip-version-check -r "$2"
        cp "$2" "$stamp"
    fi
}

python=$(find_python)
provide "$environment" tests/mgm/requirements.txt ""
shared=$(cd "$environment" && bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
provide "$environment-2b" tests/mgm/requirements-2b.txt "$shared"
[ "${1:-}" != --environment ] || exit 0

if [ -z "${MGM:-}" ]; then
    MGM=$PWD/$environment/MGM
    if [ ! -d "$MGM" ]; then
        git clone --quiet --filter=blob:none --no-checkout "$url" "$MGM.part" ||
            stop "MGM cannot be cloned from $url: MGM names a checkout"
        git -C "$MGM.part" checkout --quiet "$commit"
        mv "$MGM.part" "$MGM"
    fi
fi
[ -f "$MGM/mgm/model/builder.py" ] || stop "$MGM is no checkout of MGM: mgm/model/builder.py is not there"
MGM=$(cd "$MGM" && pwd)

profile=${PROFILE:-release}
built=$PWD/target/$([ "$profile" = dev ] && echo debug || echo "$profile")
[ -n "${MGPACK:-}" ] || cargo build --profile "$profile" --locked
rm -rf "$built/wheels"
PATH="$PWD/$environment/bin:$PATH" CARGO_TARGET_DIR="$PWD/target" maturin build --quiet --profile "$profile" --locked \
    --manifest-path bindings/python/Cargo.toml --interpreter "$environment/bin/python" --out "$built/wheels"
"$environment/bin/python" -m pip install --quiet --no-deps --no-index --force-reinstall --disable-pip-version-check \
    "$built"/wheels/mgpack-*.whl

# Both are run to their end, whatever the first finds.
status=0
for run in "$environment llama,mixtral" "$environment-2b gemma"; do
    # Split into the environment and its classes.
    set -- $run
    MGPACK=${MGPACK:-$built/mgpack} PYTHONPATH=$MGM "$1/bin/python" -m pytest -q -rs --classes "$2" \
        --junit-xml "$1/results.xml" tests/mgm || status=1
done
"$environment/bin/python" tests/mgm/counts.py "$environment/results.xml" "$environment-2b/results.xml" || status=1

wheel=$(echo "$built"/wheels/mgpack-*.whl)
if [ -n "${LISTS:-}" ]; then set -- $LISTS; else set -- --keep "$environment-lists" --first mgm-7b; fi
"$environment/bin/python" tests/environments/run.py --mgpack "${MGPACK:-$built/mgpack}" --wheel "$wheel" --mgm "$MGM" "$@" ||
    status=1
exit $status
