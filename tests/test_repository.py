"""The repository keeps its own rules: import layers, one import name, an installable wheel and sdist."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "modalities", "pipeline", "recipes", "trainer")


def python_files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_imports_run_from_recipes_to_modalities_and_never_back() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("package", "homes"),
    [("ray", {"pipeline/cluster.py", "trainer/launch.py"}), ("nvidia", {"pipeline/dali.py"})],
)
def test_ray_and_dali_are_imported_where_the_rules_say(package: str, homes: set[str]) -> None:
    pattern = re.compile(rf"^\s*(import|from) {package}\b", re.MULTILINE)
    found = {str(path.relative_to(ROOT)) for path in python_files() if pattern.search(path.read_text())}
    assert found == homes


def test_every_file_opens_with_a_sentence() -> None:
    for path in python_files():
        text = path.read_text()
        assert text.startswith('"""'), path
        assert len(text.splitlines()[0]) > 20, path


def test_every_folder_of_python_files_is_a_package_that_gets_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in python_files()}
    assert {"omniloom", *("omniloom." + ".".join(folder.parts) for folder in folders)} == listed


def test_pyright_is_told_of_every_link_for_it_follows_none_by_itself() -> None:
    included = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]["include"])
    links = {f"src/omniloom/{path.name}" for path in (ROOT / "src" / "omniloom").iterdir() if path.is_symlink()}
    assert links
    assert links <= included


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: the environment that runs the tests has setuptools, and a test needs no network.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_wheel_holds_every_module_once_under_one_name(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    expected = {f"omniloom/{path.relative_to(ROOT)}" for path in python_files()}
    expected |= {f"omniloom/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    weights = (ROOT / "modalities/models/weights").iterdir()
    expected |= {f"omniloom/modalities/models/weights/{path.name}" for path in weights}
    held = {name for name in names if name.startswith("omniloom/")}
    assert held == expected | {"omniloom/__init__.py", "omniloom/py.typed"}
    assert not any(name.startswith(FOLDERS) for name in names)


def test_the_sdist_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(tmp_path / "again"),
        str(unpacked),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = (tmp_path / "again").glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_runs_from_a_folder_that_is_not_the_checkout(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    probe = "import omniloom, omniloom.recipes.cli; from omniloom.modalities import names;"
    probe += "print(omniloom.__file__, *names())"
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True)
    where, *modalities = done.stdout.split()
    assert where == str(tmp_path / "omniloom" / "__init__.py")
    assert {"frames", "audio", "depth"} <= set(modalities)


def test_the_readme_names_commands_that_exist() -> None:
    from omniloom.recipes.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shown = set(re.findall(r"^omniloom (\w+)", "\n".join(blocks), re.MULTILINE))
    assert shown
    assert shown <= verbs


def test_compose_starts_a_head_and_workers_that_join_it() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert "--head" in services["head"]["command"]
    for name in ("worker", "gpu-worker"):
        assert "--address=head:6379" in services[name]["command"]
        assert services[name]["depends_on"]["head"]["condition"] == "service_healthy"
    assert all(port.startswith("127.0.0.1:") for port in services["head"]["ports"])


def test_constraints_pin_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.!]+", line), line
