"""The walls of the house: nothing imports upwards, and some floors know nothing of others."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Lowest first. A floor may import from itself and from those below.
FLOORS = (
    "errors",
    "compilation",
    "sharding",
    "processes",
    "process",
    "files",
    "network",
    "data",
    "sampling",
    "training",
    "config",
    "build",
    "metrics",
    "analysis",
    "run",
    "interop",
    "__init__",
)
# What a floor must not know though it lies below.
STRANGERS = {
    "process": {"sharding", "compilation"},
    "sampling": {"network", "data", "files"},
    "training": {"files", "sampling"},
    "analysis": {"training", "files"},
}
# Only these make processes, networks and experiments; searches over many processes may, and so may whoever builds.
MAKERS = {"make_process", "make_network", "abstract_network", "init_parameters"}
OF_PROCESSES = ("gaussian_error", "optimal_process", "solvers", "training_free", "video")
STUDIES = tuple(f"launch/studies/{name}.py" for name in OF_PROCESSES)
SEARCHES = ("launch/analyze.py", "launch/optimize.py", *STUDIES, "launch/benchmark/")


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything that a file imports from ssd_jax."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ssd_jax":
            found += [(node.module, alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "ssd_jax"]
    return found


def floor_of(module: str, name: str) -> str:
    parts = [*module.split("."), name]
    return parts[1] if parts[1] in FLOORS else "__init__"


def floor_of_file(path: Path) -> str:
    return path.relative_to(ROOT / "ssd_jax").parts[0].removesuffix(".py")


def test_every_module_is_on_a_floor():
    assert {floor_of_file(path) for path in modules("ssd_jax")} == set(FLOORS)


@pytest.mark.parametrize("floor", FLOORS)
def test_nothing_imports_upwards(floor):
    height, strangers = FLOORS.index(floor), STRANGERS.get(floor, set())
    for path in modules("ssd_jax"):
        if floor_of_file(path) == floor:
            for module, name in imported(path):
                other = floor_of(module, name)
                assert FLOORS.index(other) <= height, f"{path} imports {module} from a floor above"
                assert other not in strangers, f"{path} imports {module}, but {floor} must not know {other}"


def test_the_process_knows_nothing_but_errors():
    for path in modules("ssd_jax/process"):
        assert {floor_of(*each) for each in imported(path)} <= {"process", "errors"}, path


def test_what_a_config_stands_for_is_built_in_one_place():
    builders = [ROOT / "ssd_jax" / name for name in ("build.py", "__init__.py")]
    for folder in ("run", "training", "interop"):
        for path in modules(f"ssd_jax/{folder}"):
            assert path in builders or not MAKERS & {name for _, name in imported(path)}, path
    for path in modules("launch"):
        if not str(path.relative_to(ROOT)).startswith(SEARCHES):
            assert not MAKERS & {name for _, name in imported(path)}, path


def test_pixels_are_scaled_in_one_place():
    """The scale of pixels is the encoding's; metrics and spectra, which read pictures and not x_0, have their own."""
    allowed = {"ssd_jax/data/encoding.py", "ssd_jax/process/spectrum.py", "ssd_jax/metrics/features.py"}
    found = {str(p.relative_to(ROOT)) for f in ("ssd_jax", "launch") for p in modules(f) if "127.5" in p.read_text()}
    assert found <= allowed
