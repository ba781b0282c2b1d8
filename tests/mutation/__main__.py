"""`make mutate-gate`: take away every guard of the gate, one at a time; each time a test must fail.

Works on a copy of the tree in a temporary directory, so that nothing is edited and edits in the meantime do not matter. Guards are
found by `tests.mutation.mutants`; those that cannot matter are excused in `excused.toml`, each with its reason. Exits 1 when a guard
survives, or when an excuse is for nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutation import forked
from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[2]
EXCUSED = Path(__file__).parent / "excused.toml"
LIMIT_SECONDS = 60.0

_GUARDS, _HTTP, _METHODS = "tests/unit/test_gate_guards.py", "tests/unit/test_gate_http.py", "tests/unit/test_gate_methods.py"
_JSONRPC, _REQUEST = "tests/unit/test_jsonrpc.py", "tests/unit/test_mcp_request.py"
_DECISION, _STEPS = "tests/unit/test_decision.py", "tests/unit/test_gate_decision.py"
_WORKLOADS = "tests/unit/test_workload_decision.py"
_VIRTUAL, _VIEW = "tests/unit/test_virtual_decision.py", "tests/unit/test_effective_view.py"
_URI, _ARGUMENTS = "tests/unit/test_mcp_uri.py", "tests/unit/test_policy_arguments.py"
# The quickest first: the first failure ends a run.
TESTS: Mapping[str, Sequence[str]] = {
    "extauthz.look_alike": (_GUARDS, _ARGUMENTS),
    "extauthz.mcp.document": (_GUARDS, _JSONRPC),
    "extauthz.mcp.jsonrpc": (_GUARDS, _JSONRPC),
    "extauthz.mcp.headers": (_HTTP, _METHODS, _REQUEST),
    "extauthz.mcp.era": (_METHODS, _HTTP),
    "extauthz.mcp.request": (_HTTP, _METHODS, _REQUEST),
    "extauthz.mcp.uri": (_URI,),
    "extauthz.mcp.parameter_header": ("tests/unit/test_parameter_header.py",),
    "extauthz.door": (_STEPS, "tests/unit/test_door_gateways.py", _DECISION),
    "extauthz.decision": (_STEPS, _DECISION, "tests/unit/test_observation.py", "tests/unit/test_session_decision.py", _WORKLOADS, _VIRTUAL),
    "extauthz.case": (_STEPS, _DECISION),
    "extauthz.identification": (_STEPS, _DECISION, _WORKLOADS, _VIRTUAL, "tests/unit/test_token_binding.py"),
    "extauthz.lane": (_VIRTUAL, "tests/unit/test_session_decision.py"),
    "extauthz.virtual_request": (_VIRTUAL,),
    "extauthz.effective_view": (_VIEW, _VIRTUAL),
    "extauthz.policy.possibility": (_VIEW,),
    "extauthz.mcp.mapped": ("tests/unit/test_mapped_names.py", _VIRTUAL),
    "extauthz.answer": (_STEPS, _DECISION),
    "extauthz.policy.arguments": (_ARGUMENTS, "tests/unit/test_policy_evaluation.py"),
    "extauthz.identity.spiffe_id": ("tests/unit/test_spiffe_id.py",),
    "extauthz.identity.spiffe_pattern": ("tests/unit/test_spiffe_pattern.py",),
    "extauthz.identity.jwt_svid": ("tests/unit/test_jwt_svid.py",),
    "extauthz.identity.x509_svid": ("tests/unit/test_x509_svid.py",),
    "extauthz.identity.workload": (_WORKLOADS, "tests/unit/test_jwt_svid.py"),
}


def main() -> int:
    """Try every mutant, tell progress, list the survivors."""
    parser = argparse.ArgumentParser(prog="make mutate-gate")
    parser.add_argument("--only", default="", help="modules whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="say of each mutant what killed it")
    arguments = parser.parse_args()
    excused = tomllib.loads(EXCUSED.read_text())["excused"] if EXCUSED.exists() else {}
    with tempfile.TemporaryDirectory(prefix="legation-mutants-") as temporary:
        tree = Path(temporary)
        for name in ("extauthz", "controlplane", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        forked.prepare(tree)
        modules = [module for module in TESTS if arguments.only in module]
        return _judge(tree, modules, excused, verbose=arguments.verbose)


def _judge(tree: Path, modules: Sequence[str], excused: Mapping[str, str], *, verbose: bool) -> int:
    survivors: list[Mutant] = []
    stale: list[str] = []
    tried, started = 0, time.monotonic()
    for module in modules:
        file = tree / Path(*module.split(".")).with_suffix(".py")
        honest = forked.run(tree, module, file.read_text(), TESTS[module], limit_seconds=LIMIT_SECONDS)
        if honest.killed:
            print(f"{module}: its tests do not pass as it is ({honest.by})")
            return 2
        mutants = list(mutants_of(module, file))
        stale += [name for name in excused if name.startswith(f"{module}:") and name not in {mutant.name for mutant in mutants}]
        lived: list[Mutant] = []
        for mutant in mutants:
            outcome = forked.run(tree, module, mutant.source, TESTS[module], limit_seconds=LIMIT_SECONDS)
            tried += 1
            if not outcome.killed and mutant.name not in excused:
                lived.append(mutant)
                print(f"  SURVIVES line {mutant.line}: {mutant.name}", flush=True)
            elif outcome.killed and mutant.name in excused:
                stale.append(mutant.name)
            elif verbose:
                print(f"  {outcome.seconds:4.1f} s {mutant.name} <- {outcome.by if outcome.killed else 'excused'}", flush=True)
        print(f"{module}: {len(mutants)} guards, {len(lived)} survive  [{time.monotonic() - started:.0f} s, {tried} tried]", flush=True)
        survivors += lived
    for name in stale:
        print(f"excused for nothing: {name}")
    print(f"{tried} guards taken away, {len(survivors)} survive, {len(excused)} excused")
    return 1 if survivors or stale else 0


if __name__ == "__main__":
    sys.exit(main())
