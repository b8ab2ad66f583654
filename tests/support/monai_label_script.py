"""What a user of the stock MONAI Label client does, call by call; prints what came back as JSON.

    python monai_label_script.py CLIENT_FOLDER ADDRESS FOLDER PASSWORD

As 3D Slicer does, every call makes a client of its own, and the folder of results is shared.
"""

import json
import sys
from pathlib import Path


def main(client_folder: str, address: str, folder: str, password: str) -> None:
    """Call everything that the client has but training."""
    sys.path.insert(0, client_folder)
    from monailabel.client import MONAILabelClient
    from monailabel.client.client import MONAILabelClientException

    found = {}
    token = None

    def client():
        made = MONAILabelClient(address, folder, "user-xyz")
        if token is not None:
            made.update_auth(token)
        return made

    def refusal(call, *given, **options):
        try:
            call(*given, **options)
        except MONAILabelClientException as error:
            return error.msg
        return "no error"

    found["auth_enabled"] = client().auth_enabled()
    if found["auth_enabled"]:
        found["without"] = refusal(client().info)
        found["wrong"] = refusal(client().auth_token, "user-xyz", "wrong")
        token = client().auth_token("user-xyz", password)
        found["valid"] = client().auth_valid_token()
    info = client().info()
    found["models"] = list(info["models"])

    def infer(model, image, **changed):
        config = info["models"][model]["config"]
        params = {name: value[0] if isinstance(value, list) else value for name, value in config.items()}
        params |= {"result_extension": ".nrrd", "result_dtype": "uint8"} | changed
        session = client().create_session(str(Path(folder) / image))["session_id"]
        assert client().get_session(session)["name"] == session
        file, params = client().infer(model, "Volume", params, session_id=session)
        assert client().remove_session(session)["name"] == session
        found["removed"] = refusal(client().infer, model, "Volume", {}, session_id=session)
        return [file, params]

    report = "Patchy opacity in the left lower lobe."
    found["film"] = infer("small", "film.nii.gz", report=report, orientation="patient")
    found["volume"] = infer("ct_small", "ct.nii.gz", report=f"{report} The right lung is clear.")
    found["file"] = client().infer("small", "", {}, file=str(Path(folder) / "film.nii.gz"))
    found["asked"] = refusal(infer, "small", "film.nii.gz", report=report)
    found["datastore"] = client().datastore()
    found["next_sample"] = client().next_sample("random", {})
    found["training"] = client().train_status(True)
    found["label"] = refusal(
        client().save_label, "Volume", str(Path(folder) / "ct.nii.gz"), "final", {"label_info": []}
    )
    found["upload"] = refusal(client().upload_image, str(Path(folder) / "ct.nii.gz"), "Volume")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
