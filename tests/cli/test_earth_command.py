"""Remote-sensing models and sensors at the command line."""

import re

from manyone.cli.earth_command import names


def test_a_pipe_gets_every_model_whole(manyone):
    code, out, _ = manyone("ls", "earth-models")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert len(lines.keys() & set(names())) == 102
    assert "S2L1C, S2L2A, S1GRD, S1RTC, DEM, RGB, NDVI, LULC, coordinates, text" in lines["terramind"]
    assert "102 models; 91 more are known by name only" in out


def test_questions_narrow_it(manyone):
    code, out, _ = manyone("ls", "earth-models", "--sensor", "sentinel-2", "--loadable", "--commercial")
    assert code == 0
    assert " prithvi2 " in out
    assert " scalemae " not in out
    assert "left out, licence unknown" in out
    assert manyone("ls", "earth-models", "--category", "vlm", "--text", "nothing at all")[1] == "0 models\n"


def test_a_terminal_gets_one_line_a_model(manyone, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = manyone("ls", "earth-models")
    lines = re.sub("\x1b\\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(" 20" in line for line in lines) >= 102


def test_the_catalogue_is_checked(manyone):
    assert manyone("ls", "earth-models", "--check") == (0, "the catalogue is sound\n", "")


def test_one_model_is_described(manyone):
    code, out, _ = manyone("data", "info", "prithvi2")
    assert code == 0
    for text in ("Apache-2.0", "terratorch: prithvi_eo_v2_300_tl", "1087", "tt_prithvi_eo_v2_300", "95.4"):
        assert text in out
    assert "GEO-Bench v1/v2 classification, frozen" in " ".join(out.split())
    assert "any bands" in manyone("data", "info", "dofa")[1]
    assert "no published figures" in manyone("data", "info", "surya")[1]


def test_one_sensor_is_described(manyone):
    code, out, _ = manyone("data", "info", "sentinel-2")
    assert code == 0
    assert "B8A" in out
    assert "864.7" in out
    assert "prithvi2" in out


def test_mistakes_get_the_nearest_name(manyone):
    code, _, told = manyone("ls", "earth-models", "--sensor", "sentinel-22")
    assert code == 2
    assert told.startswith("manyone: unknown sensor 'sentinel-22'")
    assert "did you mean" in told
    assert "sentinel-2" in told.partition("did you mean")[2]
    assert "did you mean '--loadable'" in manyone("ls", "earth-models", "--loadabel")[2]
    assert "did you mean dofa" in manyone("data", "info", "dofaa")[2]
    assert "did you mean 'earth-models'" in manyone("ls", "earth-modls")[2]
