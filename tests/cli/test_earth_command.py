"""Remote-sensing models and sensors at the command line."""

import json
import re

from manyone.cli.earth_command import names


def test_a_pipe_gets_every_model_whole(manyone):
    code, out, err = manyone("ls", "earth-models")
    assert code == 0
    head, *lines = (line.split("\t") for line in out.splitlines())
    assert head == ["model", "year", "category", "takes", "licence", "by"]
    models = {line[0]: line for line in lines}
    assert models.keys() <= set(names())
    assert len(models) == len(lines) == 102
    assert models["terramind"][3] == "S2L1C, S2L2A, S1GRD, S1RTC, DEM, RGB, NDVI, LULC, coordinates, text"
    assert "102 models; 91 more are known by name only" in err


def test_json(manyone):
    for words in (("ls", "earth-models", "--json"), ("ls", "--json", "earth-models")):
        code, out, _ = manyone(*words)
        assert code == 0
        rows = json.loads(out)
        assert len(rows) == 102
        assert next(row for row in rows if row["model"] == "dofa")["by"] == "torchgeo, terratorch"
    rows = json.loads(manyone("ls", "earth-models", "--sensor", "landsat-7", "--loadable", "--json")[1])
    assert "dofa" in {row["model"] for row in rows}
    sensors = json.loads(manyone("ls", "earth-sensors", "--json")[1])
    assert {"sentinel-2", "landsat-7-etm+"} <= {row["sensor"] for row in sensors} <= set(names())


def test_questions_narrow_it(manyone):
    code, out, err = manyone("ls", "earth-models", "--sensor", "sentinel-2", "--loadable", "--commercial")
    assert code == 0
    assert "\nprithvi2\t" in out
    assert "\nscalemae\t" not in out
    assert "left out, licence unknown" in err
    code, out, err = manyone("ls", "earth-models", "--category", "vlm", "--text", "nothing at all")
    assert (code, out, err) == (0, "", "0 models\n")


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
