"""combine: several data lists made one, by patient and with a paper's numbers or not at all."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from medseg_monai.data import combine, load_datalist, load_sections, write_datalist
from medseg_monai.data.splits import SPLITS


def items(source: str, count: int, *, per_patient: int = 1, folder: str = "/data") -> list[dict]:
    return [
        {
            "image": f"{folder}/{source}/{number:05d}.png",
            "label": f"{folder}/{source}/{number:05d}_mask.png",
            "patient": f"{number // per_patient}",
            "source": source,
        }
        for number in range(count)
    ]


def thirds(listed: list[dict]) -> dict[str, list[dict]]:
    """A data list of three sections, which a named split pools."""
    step = len(listed) // 3
    return {"training": listed[:step], "validation": listed[step : 2 * step], "test": listed[2 * step :]}


def complete(split: str, **options: int) -> list[dict[str, list[dict]]]:
    return [thirds(items(source, count, **options)) for source, count in SPLITS[split].sources.items()]


def sizes(datalist: dict[str, list[dict]]) -> dict[str, int]:
    return {name: len(section) for name, section in datalist.items()}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("defu", {"training": 528, "validation": 76, "test": 100}),
        ("jms", {"training": 904, "validation": 48, "test": 0}),
        ("v7", {"training": 6191, "validation": 204, "test": 0}),
    ],
)
def test_a_named_split_has_exactly_the_papers_numbers_and_every_image_once(split, expected):
    found = combine(complete(split), split=split)
    assert sizes(found) == expected
    images = [item["image"] for section in found.values() for item in section]
    assert sorted(images) == sorted(item["image"] for one in complete(split) for s in one.values() for item in s)


def test_jms_takes_the_images_that_are_published_and_says_what_training_lacks(caplog):
    lists = [thirds(items(name, count)) for name, count in {"jsrt": 247, "montgomery": 138, "shenzhen": 566}.items()]
    with caplog.at_level(logging.WARNING):
        found = combine(lists, split="jms")
    assert sizes(found) == {"training": 903, "validation": 48, "test": 0}
    said = "split 'jms': 951 of the paper's 952 images are published, so training has 903 instead of 904."
    assert [record.message for record in caplog.records] == [said]


def test_a_split_with_the_papers_numbers_needs_no_warning(caplog):
    combine(complete("jms"), split="jms")
    assert caplog.records == []


def test_other_numbers_than_the_papers_and_the_published_ones_are_refused_with_both():
    lists = [thirds(items(name, count)) for name, count in {"jsrt": 247, "montgomery": 138, "shenzhen": 565}.items()]
    with pytest.raises(ValueError, match=r"shenzhen 567 \(952 images\) or .*shenzhen 566 \(951 images\), found .*565"):
        combine(lists, split="jms")


def test_patients_with_several_images_stay_together_and_the_numbers_stay_exact():
    listed = items("v7_darwin", 6000, per_patient=7) + [
        {**item, "patient": f"single {n}"} for n, item in enumerate(items("v7_darwin", 395, folder="/more"))
    ]
    found = combine([{"training": listed}], split="v7", seed=3)
    assert sizes(found) == {"training": 6191, "validation": 204, "test": 0}
    training, validation = ({item["patient"] for item in found[name]} for name in ("training", "validation"))
    assert not training & validation
    assert any(len(patient) < 4 for patient in validation)  # not only those with one image


def test_the_same_number_in_two_sources_is_two_patients():
    found = combine(complete("defu"), split="defu")
    where = {name: {(item["source"], item["patient"]) for item in section} for name, section in found.items()}
    assert sum(map(len, where.values())) == 704


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    lists = complete("defu")
    first = combine(lists, split="defu", seed=1)
    backwards = [{name: section[::-1] for name, section in one.items()} for one in lists[::-1]]
    assert combine(backwards, split="defu", seed=1) == first
    assert combine(lists, split="defu", seed=2) != first
    assert {item["source"] for item in first["test"]} == {"montgomery", "shenzhen"}


def test_other_numbers_are_refused_with_those_expected_and_found():
    lists = [thirds(items("shenzhen", 200)), thirds(items("montgomery", 138))]
    with pytest.raises(ValueError, match="split 'defu'") as error:
        combine(lists, split="defu")
    assert str(error.value) == (
        "split 'defu' needs montgomery 138, shenzhen 566 (704 images), "
        "found montgomery 138, shenzhen 200 (338 images); combine the complete data sets and no others"
    )


@pytest.mark.parametrize(("more", "name"), [(items("drive", 1), "drive"), ([{"image": "/x.png"}], "no source")])
def test_images_of_another_or_of_no_source_are_refused(more, name):
    with pytest.raises(ValueError, match=rf"found .*{name} 1,.*\(705 images\)"):
        combine([*complete("defu"), {"training": more}], split="defu")


def test_items_without_a_patient_cannot_be_split():
    lists = complete("defu")
    del lists[0]["test"][0]["patient"]
    with pytest.raises(ValueError, match=r"without 'patient'.*montgomery/00092\.png"):
        combine(lists, split="defu")


def test_numbers_that_no_choice_of_patients_gives_are_refused():
    listed = items("v7_darwin", 6395, per_patient=7)
    with pytest.raises(ValueError, match="split 'v7': no choice of patients gives 204 images for validation"):
        combine([{"training": listed}], split="v7")


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="split 'defi' is unknown: choose from defu, jms, v7"):
        combine(complete("defu"), split="defi")


def test_without_a_split_the_sections_are_joined_as_they_are():
    a, b = thirds(items("a", 9)), {"training": items("b", 2), "holdout": items("b", 1, folder="/other")}
    b["holdout"][0]["patient"] = "9"
    found = combine([a, b])
    assert found == {
        "training": a["training"] + b["training"],
        "validation": a["validation"],
        "test": a["test"],
        "holdout": b["holdout"],
    }
    assert len(a["training"]) == 3  # the given lists stay as they were


def test_a_list_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"occur twice in the data lists: /data/a/00000\.png"):
        combine([thirds(items("a", 9)), {"training": items("a", 1)}])


def test_a_patient_who_would_be_in_two_sections_is_refused():
    with pytest.raises(ValueError, match="patients in two sections: a/0; make"):
        combine([{"training": items("a", 1)}, {"test": items("a", 1, folder="/other")}])


def written(folder: Path, source: str, count: int) -> Path:
    """A data list in a folder of its own, with files that exist."""
    listed = items(source, count, folder=str(folder))
    for item in listed:
        for key in ("image", "label"):
            Path(item[key]).parent.mkdir(parents=True, exist_ok=True)
            Path(item[key]).write_text(key)
    path = folder / "list.json"
    write_datalist({"description": source, "counts": [count], **thirds(listed)}, path)
    return path


def test_paths_stay_right_from_lists_in_several_folders(tmp_path):
    lists = [written(tmp_path / "one", "a", 4), written(tmp_path / "two" / "deep", "b", 5)]
    target = tmp_path / "three" / "all.json"
    write_datalist(combine([load_sections(path) for path in lists]), target)
    found = load_datalist(target, "training")  # which refuses files that are not there
    assert [item["image"] for item in found] == [
        str(tmp_path / "one/a/00000.png"),
        str(tmp_path / "two/deep/b/00000.png"),
    ]
    assert json.loads(target.read_text())["test"][0]["label"] == "../one/a/00002_mask.png"


def test_every_section_is_loaded_and_other_entries_are_not(tmp_path):
    path = written(tmp_path, "a", 4)
    content = json.loads(path.read_text()) | {"holdout": [], "seed": 3}
    del content["counts"], content["validation"]
    path.write_text(json.dumps(content))
    assert sizes(load_sections(path)) == {"training": 1, "test": 2, "holdout": 0}


def test_what_is_no_data_list_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data list"):
        load_sections(tmp_path / "gone.json")
    for content in ("{", "[]", "{}"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.json: "):
            load_sections(tmp_path / "bad.json")
