"""Which band of your sensor feeds which input of a model: the pairing that a model of satellite images begins with.

Runs in a second, without weights:  python examples/earth.py --from landsat-7 --to prithvi2
"""

import argparse

from manyone.data.rasters.sensors import find_sensor
from manyone.earth import match, match_report


def main(sensor: str = "landsat-7", model: str = "prithvi2") -> dict[str, object]:
    report = match_report(sensor, model)
    bands = find_sensor(sensor).bands
    same = match(bands, bands)  # a sensor fits itself
    return {
        "bands": len(bands),
        "inputs": len(report.rows),
        "inputs without a band": len(report.missing),
        "cost of itself": sum(pair.cost for pair in same.pairs),
        "pairing": report.rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="sensor", default="landsat-7", help="manyone ls earth-models lists sensors")
    parser.add_argument("--to", dest="model", default="prithvi2", help="a model that manyone ls earth-models lists")
    asked = parser.parse_args()
    found = main(asked.sensor, asked.model)
    for row in found.pop("pairing"):
        print(f"{row['slot']:16} {row['band']}")
    for name, value in found.items():
        print(f"{name:22} {value:g}")
