#!/usr/bin/env bash
# Smoke test beside other versions of torch: scripts/torch_versions.sh [VERSION ...]; default: oldest and newest supported.
# Everything but torch and what it pins comes from constraints.txt. Environments are kept in $VENVS (default .torch-versions), several GB each
# where the index has CUDA builds only. Exit status: the number of versions that failed.
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive MPLBACKEND=Agg PIP_DISABLE_PIP_VERSION_CHECK=1

oldest=$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml).0
newest=2.15.0 # the last one that passed here
venvs=${VENVS:-.torch-versions}
python=${PYTHON:-python3}
# composes every experiment and takes a step per stage; the mathematics; two processes; a fit, interrupted and resumed
tests=(tests/config/test_compose.py tests/stages/test_experiments.py tests/encoders tests/objectives tests/heads
  tests/bottlenecks tests/distributed/test_gradients.py tests/training/test_fit.py tests/training/test_parts.py tests/hub)

failed=0
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=("$oldest" "$newest")
for v in "${versions[@]}"; do
  venv=$venvs/$v
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || exit 1
  constraints=$(mktemp)
  { grep -vE '^(torch|sympy|mpmath)==' constraints.txt; echo "torch==$v"; } >"$constraints"
  "$venv/bin/pip" install -q -c "$constraints" -e '.[test]' || { failed=$((failed + 1)); continue; }
  echo "== torch $("$venv/bin/python" -c 'import torch; print(torch.__version__)')"
  "$venv/bin/python" -m pytest -q -m "not slow" "${tests[@]}" || failed=$((failed + 1))
done
exit $failed
