import json
import os
import shutil
from pathlib import Path

import pytest
from monai.data import load_decathlon_datalist

from medseg_monai.data.datalist import load_datalist, load_sections, split_by_patient, write_datalist


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(path))
    return str(path)


def patients(section):
    return [item["patient"] for item in section]


def items_of(count, *, images_each=1):
    return [
        {"image": f"/data/{number:02d}_{eye}.png", "patient": f"{number:02d}"}
        for number in range(count)
        for eye in range(images_each)
    ]


def test_what_is_written_is_read_back_with_absolute_paths(tmp_path):
    item = {
        "image": touch(tmp_path / "images" / "a.png"),
        "label": touch(tmp_path / "masks" / "a.png"),
        "fov": touch(tmp_path / "derived" / "fov.png"),
        "label_expert5": touch(tmp_path / "masks" / "a5.png"),
        "patient": "a",
        "source": "images/a.png",
    }
    path = tmp_path / "lists" / "all.json"
    write_datalist({"training": [item], "validation": [], "test": []}, path)
    assert load_datalist(path, "training") == [{**item, "name": "a"}]
    assert load_sections(path)["training"] == [item]


def test_paths_are_relative_to_the_file_and_no_other_value_is_changed(tmp_path):
    item = {
        "image": touch(tmp_path / "images" / "a.png"),
        "label_expert2": touch(tmp_path / "lists" / "a.png"),
        "source": str(tmp_path),
        "label": 3,
    }
    path = tmp_path / "lists" / "all.json"
    write_datalist({"test": [item], "description": "two words", "seed": 7, "counts": {"test": 1}}, path)
    written = json.loads(path.read_text())
    assert written == {
        "test": [{"image": "../images/a.png", "label_expert2": "a.png", "source": str(tmp_path), "label": 3}],
        "description": "two words",
        "seed": 7,
        "counts": {"test": 1},
    }


def test_a_list_moved_together_with_its_images_still_works(tmp_path):
    image = touch(tmp_path / "old" / "images" / "a.png")
    write_datalist({"test": [{"image": image}]}, tmp_path / "old" / "all.json")
    (tmp_path / "old").rename(tmp_path / "new")
    found = load_datalist(tmp_path / "new" / "all.json", "test")
    assert found == [{"image": str(tmp_path / "new" / "images" / "a.png"), "name": "a"}]


def test_a_list_written_through_a_link_to_its_folder_is_read_from_the_real_one(tmp_path):
    image = touch(tmp_path / "images" / "a.png")
    real = tmp_path / "deep" / "er" / "real"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    write_datalist({"test": [{"image": image}]}, tmp_path / "link" / "all.json")
    assert load_datalist(real / "all.json", "test") == [{"image": image, "name": "a"}]
    assert load_datalist(tmp_path / "link" / "all.json", "test") == [{"image": image, "name": "a"}]


def test_a_relative_path_is_taken_from_the_working_directory(tmp_path, monkeypatch):
    image = touch(tmp_path / "images" / "a.png")
    monkeypatch.chdir(tmp_path)
    write_datalist({"test": [{"image": "images/a.png"}]}, "lists/all.json")
    monkeypatch.chdir("/")
    assert load_datalist(tmp_path / "lists" / "all.json", "test") == [{"image": image, "name": "a"}]


def test_monai_reads_the_same_list(tmp_path):
    image, label = touch(tmp_path / "images" / "a.png"), touch(tmp_path / "masks" / "a.png")
    path = tmp_path / "all.json"
    write_datalist({"training": [{"image": image, "label": label}]}, path)
    named = [{**item, "name": "a"} for item in load_decathlon_datalist(path, True, "training")]
    assert named == load_datalist(path, "training")


def test_a_list_that_cannot_be_written_leaves_the_old_one_and_no_rubbish(tmp_path):
    path = tmp_path / "all.json"
    write_datalist({"test": []}, path)
    with pytest.raises(TypeError):
        write_datalist({"test": [], "seed": object()}, path)
    assert json.loads(path.read_text()) == {"test": []}
    assert os.listdir(tmp_path) == ["all.json"]


def test_missing_files_are_all_counted_and_the_first_ten_named_in_one_line(tmp_path):
    image = touch(tmp_path / "there.png")
    items = [{"image": image, "label": str(tmp_path / f"gone{number:02d}.png")} for number in range(12)]
    write_datalist({"training": items}, tmp_path / "all.json")
    with pytest.raises(FileNotFoundError, match=r"gone00.*gone09.*12 in all") as caught:
        load_datalist(tmp_path / "all.json", "training")
    assert "gone10" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_wanted_keys_and_the_name_are_kept(tmp_path):
    item = {key: touch(tmp_path / f"{key}.png") for key in ("image", "label", "fov")}
    write_datalist({"training": [{**item, "patient": "1"}]}, tmp_path / "all.json")
    (found,) = load_datalist(tmp_path / "all.json", "training", keys=("image", "label"))
    assert found == {"image": item["image"], "label": item["label"], "name": "image"}


def test_an_unknown_section_names_the_ones_there_are(tmp_path):
    write_datalist({"training": [], "test": [], "fractions": [0.5, 0.5]}, tmp_path / "all.json")
    with pytest.raises(ValueError, match=r"no section 'testing'; it has training, test$"):
        load_datalist(tmp_path / "all.json", "testing")


def test_an_empty_section_is_refused_unless_allowed(tmp_path):
    write_datalist({"validation": []}, tmp_path / "all.json")
    with pytest.raises(ValueError, match="section 'validation' is empty"):
        load_datalist(tmp_path / "all.json", "validation")
    assert load_datalist(tmp_path / "all.json", "validation", allow_empty=True) == []


def test_an_item_without_image_is_refused(tmp_path):
    image = touch(tmp_path / "a.png")
    write_datalist({"test": [{"image": image}, {"label": image}]}, tmp_path / "all.json")
    with pytest.raises(ValueError, match="without 'image' in section 'test': 1;"):
        load_datalist(tmp_path / "all.json", "test")


def sections_of(folder: Path, **extra) -> Path:
    items = {name: {"image": touch(folder / f"{name}.png")} for name in ("training", "validation", "test")}
    items = {name: {**item, **extra.get(name, {})} for name, item in items.items()}
    write_datalist({name: [item] for name, item in items.items()}, folder / "all.json")
    return folder / "all.json"


@pytest.mark.parametrize("read", [lambda path: load_datalist(path, "validation"), load_sections])
def test_an_image_in_two_sections_is_refused_wherever_the_reader_looks(tmp_path, read):
    (tmp_path / "link.png").symlink_to(tmp_path / "training.png")
    path = sections_of(tmp_path, test={"image": str(tmp_path / "link.png")})
    with pytest.raises(ValueError, match=r"image in two sections: .*training\.png \(training\), .*link\.png \(test\);"):
        read(path)


def test_a_patient_in_two_sections_is_refused_with_both_entries(tmp_path):
    path = sections_of(tmp_path, training={"patient": 17}, test={"patient": "17"})
    with pytest.raises(
        ValueError, match=r"patient in two sections: .*training\.png \(training\), .*test\.png \(test\);"
    ):
        load_datalist(path, "training")


def test_patients_of_two_sources_may_have_the_same_number(tmp_path):
    extra = {name: {"patient": "17", "source": name} for name in ("training", "test")}
    assert len(load_sections(sections_of(tmp_path, **extra))) == 3


@pytest.mark.parametrize("copy", [False, True])
def test_a_label_that_is_the_image_is_refused(tmp_path, copy):
    path = sections_of(tmp_path)
    label = tmp_path / "training.png"
    if copy:
        label = label.rename(tmp_path / "copy.png")
        shutil.copy(label, tmp_path / "training.png")
    path = tmp_path / "own.json"
    write_datalist({"training": [{"image": str(tmp_path / "training.png"), "label": str(label)}]}, path)
    with pytest.raises(ValueError, match=r"the label is the image itself: .*training\.png; name the mask as 'label'$"):
        load_datalist(path, "training")


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    path = sections_of(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_datalist(path, "training")) == 1


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_no_data_list_is_refused(tmp_path, content):
    (tmp_path / "all.json").write_text(content)
    with pytest.raises(ValueError, match=r"all\.json: .*medseg data"):
        load_datalist(tmp_path / "all.json", "test")


def test_a_missing_data_list_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such data list"):
        load_datalist(tmp_path / "gone.json", "test")


def test_a_split_has_the_wanted_fractions_of_patients():
    split = split_by_patient(items_of(20), fractions={"training": 0.6, "validation": 0.2, "test": 0.2}, seed=0)
    assert {name: len(section) for name, section in split.items()} == {"training": 12, "validation": 4, "test": 4}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_sections_and_no_item_is_lost(seed):
    items = items_of(11, images_each=3)
    split = split_by_patient(items, fractions={"training": 0.5, "test": 0.5}, seed=seed)
    assert not set(patients(split["training"])) & set(patients(split["test"]))
    assert sorted(item["image"] for section in split.values() for item in section) == [i["image"] for i in items]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_items():
    items = items_of(20)
    fractions = {"training": 0.8, "validation": 0.2}
    split = split_by_patient(items, fractions=fractions, seed=3)
    assert split_by_patient(items[::-1], fractions=fractions, seed=3) == split
    assert split_by_patient(items, fractions=fractions, seed=4) != split


def test_a_split_is_the_same_on_each_machine():
    split = split_by_patient(items_of(10), fractions={"training": 0.8, "validation": 0.2}, seed=0)
    assert patients(split["validation"]) == ["03", "09"]


def test_a_fraction_of_zero_gives_an_empty_section_and_a_small_one_at_least_a_patient():
    split = split_by_patient(items_of(3), fractions={"training": 0.95, "validation": 0.05, "test": 0.0}, seed=0)
    assert {name: len(section) for name, section in split.items()} == {"training": 2, "validation": 1, "test": 0}


def test_items_without_patient_are_refused():
    with pytest.raises(ValueError, match=r"without 'patient'.*b\.png"):
        split_by_patient([{"image": "a.png", "patient": "a"}, {"image": "b.png"}], fractions={"test": 1.0}, seed=0)


@pytest.mark.parametrize("fractions", [{"training": 0.8}, {"training": 1.2, "test": -0.2}])
def test_fractions_that_are_no_partition_are_refused(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_patient(items_of(5), fractions=fractions, seed=0)


def test_fewer_patients_than_sections_are_refused():
    with pytest.raises(ValueError, match="1 patients can't fill the sections training, test"):
        split_by_patient(items_of(1, images_each=9), fractions={"training": 0.5, "test": 0.5}, seed=0)


def test_a_dicom_folder_is_an_image_too(tmp_path):
    (tmp_path / "series").mkdir()
    write_datalist({"test": [{"image": str(tmp_path / "series")}]}, tmp_path / "all.json")
    assert load_datalist(tmp_path / "all.json", "test") == [{"image": str(tmp_path / "series"), "name": "series"}]


def test_cases_of_one_file_name_are_named_by_their_folders_or_by_the_list(tmp_path):
    items = [{"image": touch(tmp_path / case / "ct.nii.gz")} for case in ("s0002", "s0001", "s0003")]
    items[2]["name"] = "Carla"
    write_datalist({"test": items}, tmp_path / "all.json")
    assert [item["name"] for item in load_datalist(tmp_path / "all.json", "test")] == ["s0002_ct", "s0001_ct", "Carla"]


@pytest.mark.parametrize("strange", [7, ["a.png"], "a\0.png", "\ud800.png"])
def test_an_image_that_can_be_no_path_is_refused_in_one_line(strange, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": strange}]}))
    with pytest.raises(ValueError, match=r"list\.json: not paths: image: .*; name the files$") as error:
        load_datalist(tmp_path / "list.json", "training")
    assert str(error.value).isprintable()
