# Sourced by quickstart and test: makes .venv with what is asked for, once.

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

find_python() {
  local name
  for name in python3.11 python3.12 python3.13 python3; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: no Python 3.11 or later with the venv module was found" >&2
  echo "  to do: install python3.11 and python3.11-venv, then run this again" >&2
  return 1
}

# make_environment EXTRAS: installs this checkout with the given extras into .venv. A stamp of
# what decides the result makes the second run a matter of milliseconds.
make_environment() {
  local extras=$1 stamp wanted python
  stamp=.venv/.installed-${extras//,/-}
  wanted=$(cat pyproject.toml constraints.txt | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  python=$(find_python)
  say "installing annotator[$extras] into .venv (about 2 GB, one to three minutes)"
  # PYTHONPATH and the like of a caller would mix another environment into ours.
  unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # The pin of torch decides between the CPU build and gigabytes of CUDA where an index has both.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]" \
    2> >(grep -v '^WARNING: Location' >&2)
  rm -f .venv/.installed-*
  echo "$wanted" >"$stamp"
}
