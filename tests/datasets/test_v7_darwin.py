import json
import logging

import numpy as np
import pytest

from medseg_monai.datasets import read_v7_darwin

LEFT = [(18, 2), (26, 2), (26, 9), (18, 9)]
RIGHT = [(4, 3), (11, 3), (11, 14), (4, 14)]
HOLE = [(6, 6), (8, 6), (8, 9), (6, 9)]


def points(path):
    return [{"x": float(x), "y": float(y)} for x, y in path]


def lung(name, *paths):
    """An annotation of Darwin JSON 1.0: a polygon, with holes a complex polygon."""
    if len(paths) == 1:
        return {"name": name, "polygon": {"path": points(paths[0])}}
    return {"name": name, "complex_polygon": {"path": [points(path) for path in paths]}}


def tag(name):
    return {"name": name, "tag": {}}


LUNGS = (lung("Left Lung", LEFT), lung("Right Lung", RIGHT, HOLE))


def expected():
    mask = np.zeros((20, 31), dtype=bool)
    mask[2:10, 18:27] = True
    mask[3:15, 4:12] = True
    mask[6:10, 6:9] = False
    return mask


@pytest.fixture
def export(tmp_path, draw_image):
    """Return a function that writes an image of 31x20 pixels and its JSON."""
    root = tmp_path / "published"

    def write(number, *annotations, original=None, size=(31, 20), folder="releases/all-images/annotations", **changes):
        name = f"{number:06d}"
        draw_image(root / "images" / f"{name}.png")
        image = {"filename": f"{name}.png", "width": size[0], "height": size[1], "path": "/"}
        image["original_filename"] = original or f"{name}.png"
        path = root / folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"dataset": "covid", "image": image, "annotations": annotations} | changes))
        return path

    return write


@pytest.fixture
def published(tmp_path, export):
    for number in range(1, 11):
        export(number, tag("Bacterial Pneumonia"), *LUNGS, original=f"person{(number + 1) // 2}_virus_{number}.jpeg")
    return tmp_path / "published"


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def test_polygons_are_drawn_with_holes_in_the_size_of_the_image(published, tmp_path, read_mask):
    item = every(read_v7_darwin(published, derived=tmp_path / "derived"))[0]
    assert set(item) == {"image", "label", "patient", "source"}
    assert item["label"] == str(tmp_path / "derived" / "v7_darwin" / "label" / "000001.png")
    np.testing.assert_array_equal(read_mask(item["label"]), expected())


@pytest.mark.parametrize(
    "right",
    [
        {"name": "Lung", "polygon": {"path": points(RIGHT), "additional_paths": [points(HOLE)]}},
        {"name": "Lung", "polygon": {"paths": [points(RIGHT), points(HOLE)]}},
        {"name": "right lung", "complex_polygon": {"path": [points(HOLE), points(RIGHT)]}},
        {"name": "Lung", "complex_polygon": {"path": [points(RIGHT), points([(1, 1), (2, 1), (2, 2)]), points(HOLE)]}},
    ],
)
def test_every_way_of_writing_holes_is_understood(published, export, tmp_path, read_mask, right):
    export(1, lung("Lung", LEFT), right)
    item = every(read_v7_darwin(published, derived=tmp_path / "derived"))[0]
    np.testing.assert_array_equal(read_mask(item["label"]), expected())


def test_lungs_that_overlap_are_merged_and_other_classes_are_not_drawn(published, export, tmp_path, read_mask):
    export(1, lung("Lung", RIGHT), lung("Lung", HOLE), lung("Ignore", LEFT))
    mask = np.zeros((20, 31), dtype=bool)
    mask[3:15, 4:12] = True
    item = every(read_v7_darwin(published, derived=tmp_path / "derived"))[0]
    np.testing.assert_array_equal(read_mask(item["label"]), mask)


def test_coordinates_beyond_the_image_are_moved_to_its_border(published, export, tmp_path, read_mask):
    export(1, lung("Lung", [(20, -3), (40, -3), (40, 9), (20, 9)]))
    mask = np.zeros((20, 31), dtype=bool)
    mask[:10, 20:] = True
    item = every(read_v7_darwin(published, derived=tmp_path / "derived"))[0]
    np.testing.assert_array_equal(read_mask(item["label"]), mask)


def test_lateral_views_ct_and_images_without_lungs_are_left_out_and_listed_once(published, export, tmp_path, caplog):
    export(11, tag("View/Lateral"), *LUNGS)
    export(12, tag("CT"))
    export(13, tag("View/PA"), tag("Healthy"))
    export(14, tag("View/PA"), tag("Sector/East"), *LUNGS)  # "CT" only as a part of a word
    with caplog.at_level(logging.WARNING):
        items = every(read_v7_darwin(published, derived=tmp_path / "derived"))
    assert len(items) == 11
    (record,) = caplog.records
    left_out = "1 lateral views: 000011.png; 1 CT: 000012.png; 1 without lungs: 000013.png"
    assert record.message == f"{published}: of 14 images, these are left out: {left_out}."


def test_the_split_is_by_patient_as_the_original_names_tell(published, tmp_path):
    found = read_v7_darwin(published, derived=tmp_path / "derived")
    patients = [{item["patient"] for item in section} for section in found.values()]
    assert [len(section) for section in found.values()] == [6, 2, 2]
    assert set.union(*patients) == {f"person{number}" for number in range(1, 6)}
    assert sum(map(len, patients)) == 5


@pytest.mark.parametrize(
    ("original", "tags", "patient"),
    [
        ("person7_bacteria_2.jpeg", ["Patient ID/217"], "217"),
        ("x.png", ["Age/60", "patient_id: 12"], "12"),
        ("IM-0115-0001.jpeg", [], "IM-0115"),
        ("NORMAL2-IM-1427-0001.jpeg", [], "NORMAL2-IM-1427"),
        ("covid-19-pneumonia-2.jpg", ["Patient Outcome/Recovered"], "covid-19-pneumonia-2"),
    ],
)
def test_the_patient_is_that_of_the_tag_else_of_the_name(published, export, tmp_path, original, tags, patient):
    export(1, *LUNGS, *(tag(name) for name in tags), original=original)
    assert every(read_v7_darwin(published, derived=tmp_path / "derived"))[0]["patient"] == patient


def test_annotations_as_in_the_repository_and_of_format_2_are_understood(tmp_path, export, read_mask):
    for number in range(1, 6):
        slot = {"width": 31, "height": 20, "source_files": [{"file_name": f"person{number}_virus_1.jpeg"}]}
        item = {"name": f"{number:06d}.png", "path": "/", "slots": [slot]}
        export(number, *LUNGS, folder="annotations/all-images", version="2.0", item=item)
    items = every(read_v7_darwin(tmp_path / "published", derived=tmp_path / "derived"))
    assert [item["patient"] for item in items] == [f"person{number}" for number in range(1, 6)]
    np.testing.assert_array_equal(read_mask(items[0]["label"]), expected())


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ({"path": points(LEFT[:2])}, "2 points are no contour"),
        ({"path": points([(1, 1), (9, 9), (float("nan"), 3)])}, "a coordinate is not a finite number"),
        ({"path": points([(50, 1), (60, 1), (60, 9)])}, "a lung encloses no pixel of the image"),
        ({"path": [{"x": 1, "z": 2}] * 3}, "bad polygon"),
        ({"rle": [1, 2]}, "bad polygon"),
    ],
)
def test_a_bad_polygon_is_refused(published, export, tmp_path, polygon, message):
    export(1, {"name": "Lung", "polygon": polygon})
    with pytest.raises(ValueError, match=r"000001\.json: bad polygon: .*") as caught:
        read_v7_darwin(published, derived=tmp_path / "derived")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_doubtful_files_are_named_in_one_error(published, export, draw_image, tmp_path):
    (published / "images" / "000001.png").unlink()
    draw_image(published / "images" / "stray.png")
    export(3, *LUNGS, image={"filename": "000002.png", "width": 31, "height": 20})
    export(4, *LUNGS).write_text("{")
    export(5, *LUNGS, annotations=None)
    with pytest.raises(ValueError, match="missing or doubtful files in v7_darwin") as caught:
        read_v7_darwin(published, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "000001.json: names an image that is missing: 000001.png" in message
    assert "images/stray.png: image without annotation" in message
    assert "000003.json: second annotation of 000002.png beside 000002.json" in message
    assert "000004.json: is not Darwin JSON of an image" in message
    assert "000005.json: is not Darwin JSON of an image" in message


def test_an_image_of_another_size_than_its_annotation_says_is_named(published, export, tmp_path):
    export(1, *LUNGS, size=(62, 40))
    with pytest.raises(ValueError, match=r"images/000001\.png: is 31x20, its annotation 62x40"):
        read_v7_darwin(published, derived=tmp_path / "derived")


def test_a_folder_without_annotations_is_refused(tmp_path, draw_image):
    draw_image(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match="releases/all-images/annotations: no annotations"):
        read_v7_darwin(tmp_path, derived=tmp_path / "derived")
