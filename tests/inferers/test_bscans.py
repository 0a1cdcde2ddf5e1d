import torch

from medseg_monai.inferers import BScanInferer, FlipTTAInferer


def test_each_bscan_of_a_volume_is_predicted_as_alone():
    network = torch.nn.Conv2d(3, 4, kernel_size=3, padding=1).eval()
    infer = BScanInferer(FlipTTAInferer(views="mirror", activation="softmax"))
    volume = torch.rand(1, 3, 5, 12, 9)
    found = infer(volume, network)
    assert found.shape == (1, 4, 5, 12, 9)
    torch.testing.assert_close(found[:, :, 2], infer(volume[:, :, 2], network))


def test_without_another_inferer_the_network_is_applied_as_it_is():
    network = torch.nn.Conv2d(1, 2, kernel_size=1)
    scan = torch.rand(2, 1, 6, 8)
    assert torch.equal(BScanInferer()(scan, network), network(scan))
