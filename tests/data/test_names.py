"""One name for each case of a run, wherever the case is mentioned."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate

from medseg_monai.data.names import case_name, item_name, name_cases


def named(*images: str) -> list[str]:
    return [item["name"] for item in name_cases([{"image": image} for image in images])]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/scan.nii.gz", "scan"),
        ("x/SCAN.NII.GZ", "SCAN"),
        ("x/scan.v2.NII", "scan.v2"),
        ("x/scan.nhdr", "scan"),
        ("x/patient.7", "patient.7"),
        ("x/1.2.840.113", "1.2.840.113"),
        ("/folder.d/a.b.PNG", "a.b"),
        ("/folder.d/chest.dcm", "chest"),
        ("/folder.d/x.tiff", "x"),
        ("/folder.d/IM0001", "IM0001"),
        ("/folder.d/.png", ".png"),
    ],
)
def test_the_ending_of_an_image_is_no_part_of_a_name_and_nothing_else_is_an_ending(path, name):
    assert case_name(path) == name


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["d/a.png", "d/b.png", "e/c.png"], ["a", "b", "c"]),
        (["d/s1/ct.nii.gz", "d/s2/ct.nii.gz", "d/s2/lung.nii"], ["s1_ct", "s2_ct", "lung"]),
        # folders that all share tell nothing
        (["MR/1/T1/DICOM/InPhase", "MR/2/T1/DICOM/InPhase"], ["1_InPhase", "2_InPhase"]),
        (["a/x/ct.nii", "a/y/ct.nii", "b/x/ct.nii"], ["a_x_ct", "a_y_ct", "b_x_ct"]),
        (["a/ct.nii", "a/b/ct.nii"], ["a_ct", "b_ct"]),
        (["ct.nii", "a/ct.nii"], ["ct", "a_ct"]),
        # a file system may ignore the case of letters
        (["d/Scan.nii", "e/scan.nii"], ["d_Scan", "e_scan"]),
        (["d/Scan.nii", "d/scan.nii"], ["Scan", "scan"]),
        (["d/x.png", "d/x.jpg", "d/y.png"], ["x.png", "x.jpg", "y"]),
        (["d/ct.nii", "d/ct.nii", "e/ct.nii"], ["d_ct", "d_ct", "e_ct"]),
        (["a/1.2.3", "b/1.2.3", "b/1.2.4"], ["a_1.2.3", "b_1.2.3", "1.2.4"]),
    ],
)
def test_equal_names_are_told_apart_by_what_differs_in_their_folders(images, names):
    assert named(*images) == names


def test_a_name_in_the_data_list_stands_unless_another_case_has_it_too():
    items = [
        {"image": "d/1/ct.nii", "name": "Anna"},
        {"image": "d/2/ct.nii", "name": "Berta"},
        {"image": "d/3/ct.nii", "name": "Berta"},
    ]
    assert [item["name"] for item in name_cases(items)] == ["Anna", "2_Berta", "3_Berta"]
    assert name_cases(name_cases(items)) == name_cases(items)


def test_names_that_come_out_the_same_are_refused_with_both_paths():
    with pytest.raises(ValueError, match=r"a_b/ct\.nii and a/b_ct\.nii: both would be named a_b_ct; rename one"):
        named("a_b/ct.nii", "c/ct.nii", "a/b_ct.nii", "c/b_ct.nii")


@pytest.mark.parametrize("name", ["../../x", "..\\..\\x"])
def test_a_name_does_not_lead_out_of_the_folder_of_results(name):
    assert name_cases([{"image": "d/ct.nii", "name": name}])[0]["name"] == ".._.._x"
    assert item_name({"name": name}) == ".._.._x"


def test_the_name_goes_with_its_case_through_batches():
    images = [MetaTensor(torch.zeros(1, 2, 3), meta={"filename_or_obj": f"d/s{i}/ct.nii"}) for i in range(2)]
    items = [{"image": image, "name": name} for image, name in zip(images, ("s0_ct", "s1_ct"), strict=True)]
    assert [item_name(item) for item in decollate_batch(list_data_collate(items))] == ["s0_ct", "s1_ct"]
