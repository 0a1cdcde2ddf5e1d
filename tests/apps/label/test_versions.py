"""The list of a bundle's models."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg_monai.apps.label.lib.versions import SHIPPED, Model, Versions


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    for name in ("model", "first", "second"):
        (tmp_path / f"{name}.pt").touch()
    return Versions(tmp_path / "models", tmp_path / "model.pt")


def model(versions: Versions, name: str) -> Model:
    return Model(name, str(versions.folder.parent / f"{name}.pt"), 0.9, 0.8)


def test_at_first_there_is_the_shipped_model(versions: Versions):
    assert list(versions.all()) == [SHIPPED]
    assert versions.current().name == SHIPPED


def test_a_model_is_used_only_when_told_so_and_another_process_sees_it(versions: Versions):
    versions.add(model(versions, "first"), use=True)
    versions.add(model(versions, "second"), use=False)
    again = Versions(versions.folder, versions.shipped.path)
    assert list(again.all()) == [SHIPPED, "first", "second"]
    assert again.current() == model(versions, "first")


def test_the_shipped_model_can_be_had_back(versions: Versions):
    versions.add(model(versions, "first"), use=True)
    assert versions.use(SHIPPED) == versions.shipped
    assert versions.current() == versions.shipped
    assert "first" in versions.all()


def test_a_model_whose_weights_were_deleted_is_no_longer_used(versions: Versions):
    versions.add(model(versions, "first"), use=True)
    Path(model(versions, "first").path).unlink()
    assert versions.current().name == SHIPPED


def test_a_model_that_is_not_there_and_a_name_that_is_taken_are_refused(versions: Versions):
    versions.add(model(versions, "first"), use=False)
    with pytest.raises(ValueError, match="third: no such model; there are shipped, first"):
        versions.use("third")
    with pytest.raises(ValueError, match="there is already a model 'first'"):
        versions.add(model(versions, "first"), use=True)
