import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    "name, whole, short", [("off_policy_by_hand", "15_000", "1_200"), ("on_policy_by_hand", "80_000", "2_048")]
)
def test_loops_by_hand_run(name, whole, short, tmp_path):
    source = (EXAMPLES / f"{name}.py").read_text()
    assert f"= {whole}," in source
    script = tmp_path / "example.py"
    script.write_text(source.replace(f"= {whole},", f"= {short},"))
    runpy.run_path(str(script))


def test_tensor_buffer_in_sb3(capsys):
    runpy.run_path(str(EXAMPLES / "tensor_buffer_in_sb3.py"))
    assert "total_timesteps" in capsys.readouterr().out


def test_pgr_in_sb3(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = (EXAMPLES / "pgr_in_sb3.py").read_text()
    assert "total_timesteps=20_000" in source
    (tmp_path / "example.py").write_text(source.replace("total_timesteps=20_000", "total_timesteps=300"))
    runpy.run_path(str(tmp_path / "example.py"))
    assert (tmp_path / "halfcheetah.zip").is_file()
