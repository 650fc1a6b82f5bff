"""Encoders of places."""

import io
import zipfile

import pytest
import torch
from tests.reference import earth_encoders

from manyone.earth.encoders import location
from manyone.earth.encoders.location import GeoClip, equal_earth, fourier_features, location_encoder, xyz_quadratic
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

PLACES = torch.tensor([[13.4, 52.5], [13.5, 52.6], [-179.99, 0.0], [179.99, 0.0], [151.2, -33.9]], dtype=torch.float64)


def vectors(encoder, places=PLACES):
    return encoder.vectors(torch.empty(0), Context(lonlat=places))["mean"]


def test_the_projection_is_equal_earth():
    for place, found in zip(PLACES.tolist(), equal_earth(PLACES).tolist(), strict=True):
        assert found == pytest.approx(earth_encoders.equal_earth(*place), abs=1e-9)


@pytest.mark.parametrize("name", ["xyz", "rff"])
def test_places_beside_each_other_are_alike_also_across_180_degrees(name):
    found = torch.nn.functional.normalize(vectors(location_encoder(name)), dim=1)
    assert found[0] @ found[1] > 0.99
    assert found[2] @ found[3] > 0.99
    assert found[0] @ found[4] < 0.5


def test_fourier_features_approach_the_gaussian_kernel_of_the_chord():
    frequencies = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3
    places = torch.tensor([[0.0, 0.0], [20.0, 10.0]], dtype=torch.float64)
    a, b = fourier_features(places, frequencies) / 20_000**0.5
    v, w = location.unit_vectors(places)
    kernel = torch.exp(-2 * torch.pi**2 * 0.3**2 * (v - w).square().sum())
    assert float(a @ b) == pytest.approx(float(kernel), abs=0.02)


def test_quadratic_terms_are_products_of_coordinates():
    found = xyz_quadratic(PLACES)
    x, y, z = found[:, :3].T
    torch.testing.assert_close(found[:, 3:], torch.stack([x * x, y * y, z * z, x * y, x * z, y * z], 1))


def test_geoclips_weights_are_read_out_of_an_archive_strictly(tmp_path, monkeypatch):
    torch.manual_seed(5)
    state = GeoClip().state_dict()
    state["LocEnc0.head.0.weight"][0, :3] = 1e-40  # denormal, as in the published file
    wheel = tmp_path / "geoclip.whl"
    raw = io.BytesIO()
    torch.save(state, raw)
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("geoclip/model/weights/location_encoder_weights.pth", raw.getvalue())
    monkeypatch.setattr(location, "get", lambda name: wheel)
    encoder = location_encoder("geoclip")
    assert encoder.spec.trained
    assert encoder.spec.width == 512
    plain = GeoClip()
    plain.load_state_dict(state)
    torch.testing.assert_close(vectors(encoder), plain(PLACES).detach())
    assert float(encoder.function.state_dict()["LocEnc0.head.0.weight"][0, :3].abs().max()) == 0
    assert encoder.digest() != location_encoder("geoclip", weights="random").digest()


def test_what_is_no_place_is_refused():
    encoder = location_encoder("xyz")
    with pytest.raises(ManyoneError, match="longitude first"):
        vectors(encoder, torch.tensor([[10.0, 100.0]]))
    with pytest.raises(ManyoneError, match="is missing"):
        encoder.vectors(torch.empty(0), Context())
    with pytest.raises(ManyoneError, match="it has vectors, no maps"):
        encoder.maps(torch.empty(0), Context(lonlat=PLACES))
