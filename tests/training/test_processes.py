@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_asked_for_and_not_there_is_an_error(device, monkeypatch, tmp_path):
    monkeypatch.setattr("c2fvl.training.processes.automatic_device", lambda: "cpu")
    with pytest.raises(
        ValueError, match=f"train.device is '{device}', which this machine .* does not have; auto takes cpu"
    ):
        start_accelerator(TrainConfig(device=device), tmp_path)
