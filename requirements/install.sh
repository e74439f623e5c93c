#!/usr/bin/env bash
# Install hashed pins and our own packages into one environment:
#   requirements/install.sh PYTHON VERSIONS VENV PINS... -- PACKAGES...
# PYTHON makes the environment, VERSIONS (e.g. "3.11 3.12") is what it may be. Every pin is checked by its hash and
# nothing is resolved, so what is installed is what the files say. TORCH_INDEX, an index with CPU builds of torch,
# is tried only where the indexes pip is configured with lack a wheel.
set -euo pipefail

python=$1 versions=$2 venv=$3
shift 3
pins=() packages=()
while (($#)) && [[ $1 != -- ]]; do pins+=(-r "$1"); shift; done
shift
while (($#)); do packages+=(-e "$1"); shift; done

say() { printf '==> %s: %s\n' "$venv" "$*" >&2; }

if ! command -v "$python" >/dev/null; then
    say "needs Python ${versions// / or }, and '$python' is not on the PATH. Install it, or name it: make PYTHON=/path/to/python"
    exit 1
fi
if ! found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); then
    say "'$python' does not run"
    exit 1
fi
if [[ " $versions " != *" $found "* ]]; then
    say "needs Python ${versions// / or }, but '$python' is $found. Name another: make PYTHON=/path/to/python"
    exit 1
fi

# A broken link to a Python that is gone, or an environment of another version, is made anew.
if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c "import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] not in '$versions'.split())" 2>/dev/null; then
    say "making a virtual environment with Python $found"
    "$python" -m venv --clear "$venv"
fi

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

pip_install() { # progress stays on the terminal, errors are kept as well
    { "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --require-hashes "$@" "${pins[@]}" 2>&1 1>&3 | tee "$errors" >&2; } 3>&1
}

install_pins() {
    if [[ -t 1 ]]; then
        pip_install "$@"
    else # a log need not hear of what was there already
        pip_install "$@" | { grep --line-buffered -v '^Requirement already satisfied' || true; }
    fi
}

if ((${#pins[@]})); then
    say "installing the pinned packages (the first time takes a while)"
    if ! install_pins; then
        if [[ -z ${TORCH_INDEX:-} ]] || ! grep -q 'No matching distribution found for torch' "$errors"; then
            say "installation failed"
            exit 1
        fi
        say "the default index lacks the CPU build of torch; trying TORCH_INDEX as well"
        install_pins --extra-index-url "$TORCH_INDEX"
    fi
fi
if ((${#packages[@]})); then
    say "linking our own packages"
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation "${packages[@]}"
fi
say "ready"
