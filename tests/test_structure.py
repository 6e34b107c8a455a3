"""The shape of the package, kept by tests: layers, sizes, words that do not belong, and what an import brings."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "audiogen"
FILES = sorted(ROOT.rglob("*.py"))
LINES, FUNCTION_LINES = 320, 70

# A module imports only from its own layer or below; the longest name that fits counts.
LAYERS = {
    "audiogen": 7, "audiogen.__main__": 7, "audiogen.cli": 7,
    "audiogen.batch": 6, "audiogen.recordings": 6, "audiogen.hub": 6, "audiogen.train": 6, "audiogen.evaluate": 6,
    "audiogen.pipeline": 5, "audiogen.edit": 5, "audiogen.evaluate.metrics": 5, "audiogen.evaluate.embed": 5, "audiogen.rank": 5,
    "audiogen.checkpoint": 4, "audiogen.drafts": 4, "audiogen.sizes": 3, "audiogen.compat": 4,
    "audiogen.text": 3, "audiogen.encoders": 3, "audiogen.sentence": 3, "audiogen.vocode": 3, "audiogen.diffusion.denoiser": 3,
    "audiogen.diffusion.attention_edit": 3, "audiogen.diffusion.loop": 3, "audiogen.diffusion.windows": 3,
    "audiogen.models": 2, "audiogen.diffusion.schedule": 2, "audiogen.diffusion.sampling": 2, "audiogen.mel": 2,
    "audiogen.plot": 2, "audiogen.recipe": 2, "audiogen.prompts": 2, "audiogen.manifest": 2, "audiogen.words": 2,
    "audiogen.timeline": 2,
    "audiogen.config": 1, "audiogen.files": 1, "audiogen.audio": 1, "audiogen.settings": 1, "audiogen.diffusion.conditioning": 1,
    "audiogen.diffusion": 0, "audiogen.errors": 0, "audiogen.distributed": 0, "audiogen.memory": 0}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(f): f for f in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer(module: str) -> int | None:
    while module not in LAYERS and "." in module:
        module = module.rpartition(".")[0]
        if module == "audiogen":                                 # a new file must say where it belongs
            return None
    return LAYERS.get(module)


def typing_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes under `if TYPE_CHECKING:`."""
    return {node for branch in ast.walk(tree) if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
            for node in ast.walk(branch)}


def imports(path: Path) -> set[str]:
    """This package's modules that a file imports, at its top or late."""
    tree, found = tree_of(path), set()
    skipped = typing_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in NAMES else str(node.module) for a in node.names}
    return {m for m in found if m.split(".")[0] == "audiogen"} - {name_of(path)}


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_downwards(name: str) -> None:
    own = layer(name)
    assert own is not None, f"{name} has no layer"
    for other in imports(NAMES[name]):
        if name == "audiogen" or other == "audiogen":            # its __getattr__, and its version
            continue
        assert layer(other) is not None, f"{other} has no layer"
        assert layer(other) <= own, f"{name} (layer {own}) imports {other} (layer {layer(other)})"


def test_no_cycles() -> None:
    graph = {name: imports(path) - {"audiogen"} for name, path in NAMES.items() if name != "audiogen"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name):], name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) >= 20


def test_train_does_not_import_the_pipeline() -> None:
    for name, path in NAMES.items():
        if name.startswith("audiogen.train"):
            assert "audiogen.pipeline" not in imports(path), name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} is {lines} lines long"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_words_that_do_not_belong(path: Path) -> None:
    at_the_console = "cli" in path.parts
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print" or at_the_console, f"line {node.lineno}: print"
            if called == "torch.load":
                assert any(ast.unparse(k) == "weights_only=True" for k in node.keywords), f"line {node.lineno}: torch.load"
            assert called not in ("pickle.load", "pickle.loads", "eval", "exec"), f"line {node.lineno}: {called}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in (m.split(".")[0] for m in modules):
                assert module not in ("rich", "typer") or at_the_console, f"line {node.lineno}: {module}"
                assert module != "diffusers", "the reference is for tests only"


def test_transformers_has_one_home() -> None:
    users = {name_of(f) for f in FILES if any(
        (isinstance(n, ast.ImportFrom) and (n.module or "").split(".")[0] == "transformers")
        or (isinstance(n, ast.Import) and any(a.name.split(".")[0] == "transformers" for a in n.names))
        for n in ast.walk(tree_of(f)))}
    assert users <= {"audiogen.encoders", "audiogen.evaluate.embed", "audiogen.train.tower"}
    top = [n for n in tree_of(NAMES["audiogen.encoders"]).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("transformers" in ast.unparse(n) for n in top)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_are_described(path: Path) -> None:
    """Files, functions, and classes that are more than a layer of a network or a table of settings."""
    tree = tree_of(path)
    assert ast.get_docstring(tree), "no docstring at the top"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            layers = any(ast.unparse(b) == "nn.Module" for b in node.bases)
            forward = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "forward"), None)
            shaped = forward is not None and (ast.get_docstring(forward) or "->" in ast.unparse(forward).splitlines()[0])
            settings = node.name.endswith("Config")
            assert ast.get_docstring(node) or (layers and shaped) or settings or \
                any(isinstance(b, ast.AnnAssign) for b in node.body), f"{node.name} has no docstring"


@pytest.mark.parametrize("module", ["audiogen", "audiogen.cli"])
def test_an_import_brings_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'numpy', 'transformers', 'soundfile', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert out.stdout.strip() == "[]"
