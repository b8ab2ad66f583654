"""Where a training runs: what is demanded is there, or it is an error."""

import pytest

from c2fvl.config import TrainConfig
from c2fvl.training.processes import start_accelerator


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_demanded_and_not_there_is_an_error(device, monkeypatch, tmp_path):
    monkeypatch.setattr("c2fvl.training.processes.automatic_device", lambda: "cpu")
    message = f"train.device is '{device}', which this machine .* does not have; auto takes cpu"
    with pytest.raises(ValueError, match=message):
        start_accelerator(TrainConfig(device=device), tmp_path)
